"""One run, killed again and again by SIGKILL at moments that nobody chooses, ends in the bits of one that was left alone.

It has everything that could go wrong: two sources in two phases with rows of another length, accumulation, validation, a spike
that is skipped, experts that are balanced, the best checkpoint kept, and a thread that writes while training goes on.
"""

import random
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.train.small import RECIPE, start
from tests.train.test_balance import sparse_model
from tests.train.test_checkpoint import untimed

from amaru.data.blend import Blend, Portion, schedule
from amaru.data.loader import in_order
from amaru.data.packing import PackedRows
from amaru.eval.perplexity import evaluate
from amaru.train.checkpoint import fingerprint_weights
from amaru.train.guard import Guard
from amaru.train.loop import train
from amaru.train.metrics import read
from amaru.train.objective import CrossEntropy

ROWS, LENGTH = 4, 16
SPIKE = 33  # the step whose loss is multiplied, counted from 0


def source(name: str, seed: int) -> PackedRows:
    draw = np.random.default_rng(seed)
    starts = np.arange(0, 1000, 40)
    return PackedRows(draw.integers(3, 280, 1001).astype(np.uint16), starts, tuple(f"{name}{n}" for n in starts), LENGTH, {"by": name})


def blend(steps: int) -> Blend:
    portions = [Portion(until="60%", weights={"web": 0.8, "code": 0.2}), Portion(weights={"web": 0.5, "code": 0.5}, row_length=2 * LENGTH)]
    phases = schedule(portions, steps * ROWS * LENGTH, ROWS * LENGTH, LENGTH)
    return Blend({"web": source("web", 1), "code": source("code", 2)}, phases, RECIPE.seed)


class SpikeOnce:
    """Cross-entropy, but for one batch: times twenty."""

    def __init__(self, batches: Blend) -> None:
        self.ids = [batches.batch(SPIKE, part, 2).ids for part in range(2)]

    def __call__(self, model, batch):
        loss = CrossEntropy()(model, batch)
        return replace(loss, total=loss.total * 20) if any(torch.equal(batch.ids, ids) for ids in self.ids) else loss


def everything(out: Path, steps: int):
    recipe = replace(
        RECIPE,
        steps=steps,
        batch_rows=ROWS,
        micro_tokens=ROWS * LENGTH // 2,
        validate_every=7,
        guard=Guard(window=12, spike="skip"),
        keep_best=True,
        checkpoint_in_background=True,
    )
    batches, held = blend(steps), source("held", 3)
    model = sparse_model()
    validate = lambda model: {"loss": evaluate(model, in_order(held, 8, limit=8)).loss}  # noqa: E731
    history = train(model, SpikeOnce(batches), batches, recipe, out, validate=validate)
    return model, history


def killed(out: Path, kills: int, steps: int) -> None:
    """Kill the run so many times, each after some more steps and a random moment, then require the end of a calm one."""
    calm, whole = everything(out / "calm", steps)
    assert whole.steps[SPIKE].skipped and len({step.phase for step in whole.steps}) == 2
    draw, place, seen = random.Random(kills), out / "killed", 0
    for kill in range(kills):
        child = start(everything, place, steps)
        until = steps * (kill + 1) // (kills + 2)
        while (seen := len(read(place / "metrics.jsonl"))) < until and child.is_alive():
            time.sleep(0.002)
        time.sleep(draw.uniform(0, 0.03))
        assert child.is_alive(), "the run ended before it was killed"
        child.kill()
        child.join()
    assert seen < steps
    model, history = everything(place, steps)
    assert 0 < history.resumed_from < steps
    assert untimed(history.steps) == untimed(whole.steps) == untimed(read(place / "metrics.jsonl"))
    assert fingerprint_weights(model) == fingerprint_weights(calm)


def test_killed_three_times(tmp_path) -> None:
    killed(tmp_path, kills=3, steps=60)


@pytest.mark.soak
def test_killed_twenty_times(tmp_path) -> None:
    killed(tmp_path, kills=20, steps=600)
