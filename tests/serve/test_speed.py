"""Measured numbers: bytes are those of real tensors, times go up with the work."""

import time

import pytest
import torch
from tests.models.random_models import random_config, random_model

from amaru.errors import ConfigError
from amaru.models.cost import Workload, memory
from amaru.serve.speed import Timing, measure


def test_bytes_are_counted_on_the_tensors_and_agree_with_the_plan() -> None:
    config = random_config(0, "MM-*-M")
    timing = Timing(prompt=20, batch=3, context=50, steps=2, repeats=1)
    speed = measure(random_model(config, 0), timing)
    planned = memory(config, Workload(context=50, batch=3, weights="fp32", kv="fp32"))
    assert speed.weight_bytes == planned.weights
    assert speed.state_bytes == planned.kv + planned.ssm_state + 2 * planned.conv_state  # the plan counts conv states in bf16
    assert (speed.timing, speed.dtype, speed.device, speed.threads) == (timing, "float32", "cpu", torch.get_num_threads())


def test_tied_weights_are_counted_once() -> None:
    config = random_config(0, "M", tied=True)
    speed = measure(random_model(config, 0), Timing(prompt=2, context=4, steps=1, repeats=1))
    assert speed.weight_bytes == memory(config, Workload(weights="fp32")).weights


def test_speeds_are_tokens_over_the_seconds_that_pass() -> None:
    """All runs together take at least as long as the medians say (of three repeats, two are no faster than it)."""
    decoder = random_model(random_config(0, "MM-*-M"), 0)
    start = time.perf_counter()
    speed = measure(decoder, Timing(prompt=200, batch=4, context=300, steps=5, repeats=3))
    passed = time.perf_counter() - start
    claimed = 2 * 200 / speed.prefill + 2 * 4 * 5 / speed.decode
    assert 0 < claimed < passed
    assert claimed > 0.05 * passed  # and most of that time was the model


def test_decoding_a_batch_gives_more_tokens_than_one_sequence() -> None:
    decoder = random_model(random_config(0, "MM-*-M"), 0)

    def rate(batch: int) -> float:
        return measure(decoder, Timing(prompt=1, batch=batch, context=40, steps=5, repeats=3)).decode

    assert any(rate(32) > 2 * rate(1) for _ in range(8)), "other work may spoil an attempt, a batch that is not faster fails all of them"


def test_more_steps_than_context_are_refused() -> None:
    with pytest.raises(ConfigError, match="steps"):
        Timing(context=4, steps=5)
