"""A run on several processes against the run on one: losses, gradient norms and weights; who keeps what."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from tests.parallel.ranks import Ranks
from tests.train.parallel.spread_run import CONFIG, SHORT, TIED, Weights, alone, spread

from amaru.errors import ConfigError
from amaru.models import DecoderConfig
from amaru.nn import Attention
from amaru.parallel.shares import cut
from amaru.train.metrics import StepMetrics
from amaru.train.parallel.layout import Layout
from amaru.train.parallel.spread import Spread
from amaru.train.settings import TrainConfig

TWO = {"data": Layout(data=2), "tensor": Layout(tensor=2), "tensor and sequence": Layout(tensor=2, sequence=True)}
FOUR = {
    "data and tensor": Layout(data=2, tensor=2),
    "data, tensor and sequence": Layout(data=2, tensor=2, sequence=True),
    "data of four": Layout(data=4),
    "tensor of four": Layout(tensor=4),
}


@cache
def one_process(config: DecoderConfig) -> tuple[list[StepMetrics], Weights]:
    with TemporaryDirectory() as out:
        return alone(Path(out), config)


def same_run(ranks: Ranks, tmp_path: Path, layout: Layout, config: DecoderConfig, recipe: TrainConfig = SHORT) -> None:
    steps, weights = one_process(config)
    for found, parts, kept in ranks(spread, tmp_path / "spread", layout, config, recipe):
        for step, other in zip(steps, found, strict=True):
            assert (other.tokens, other.lr) == (step.tokens, step.lr)
            assert other.loss == pytest.approx(step.loss, rel=1e-9)
            assert other.grad_norm == pytest.approx(step.grad_norm, rel=1e-9)
        expected = {name: cut(weights[name], kept[name]) for name in parts}
        torch.testing.assert_close(parts, expected, rtol=1e-9, atol=1e-9)
    assert max(step.grad_norm for step in steps) > SHORT.clip > 0, "clipping is part of what is compared"


@pytest.mark.parametrize("config", [CONFIG, TIED], ids=["hybrid with experts", "tied"])
@pytest.mark.parametrize("layout", TWO.values(), ids=TWO)
def test_two_processes_train_as_one(two: Ranks, tmp_path: Path, layout: Layout, config: DecoderConfig) -> None:
    same_run(two, tmp_path, layout, config)


@pytest.mark.parametrize("layout", [TWO["data"], TWO["tensor and sequence"]], ids=["data", "tensor and sequence"])
def test_layers_that_are_run_again_change_nothing(two: Ranks, tmp_path: Path, layout: Layout) -> None:
    same_run(two, tmp_path, layout, CONFIG, replace(SHORT, recompute_every=2))


def test_matrices_are_gathered_in_bf16_and_learn_in_fp32(two: Ranks, tmp_path: Path) -> None:
    recipe = replace(SHORT, dtype="bf16", micro_tokens=23)  # row by row in both, so that every product is the same one
    steps, weights = alone(tmp_path / "alone", CONFIG, recipe, torch.float32)
    for found, parts, kept in two(spread, tmp_path / "spread", Layout(data=2), CONFIG, recipe, torch.float32):
        assert [step.loss for step in found] == pytest.approx([step.loss for step in steps], rel=1e-5)
        assert all(part.dtype is torch.float32 for part in parts.values())
        expected = {name: cut(weights[name], kept[name]) for name in parts}
        torch.testing.assert_close(parts, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.soak
@pytest.mark.parametrize("config", [CONFIG, TIED], ids=["hybrid with experts", "tied"])
@pytest.mark.parametrize("layout", FOUR.values(), ids=FOUR)
def test_four_processes_train_as_one(four: Ranks, tmp_path: Path, layout: Layout, config: DecoderConfig) -> None:
    same_run(four, tmp_path, layout, config)


def test_layouts_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="3 processes do not make groups of 2"):
        Layout.of(3, tensor=2)
    with pytest.raises(ConfigError, match="one process"):
        Layout(data=2, sequence=True)
    narrow = replace(CONFIG, layers=(Attention(query_heads=4, kv_heads=2, channels=4),))
    with pytest.raises(ConfigError, match="copies of the same KV heads"):
        Spread(narrow, Layout(tensor=4))
    with pytest.raises(ConfigError, match=r"a mamba2 layer has 4 indices of 'group'.*\(layer 0\)"):
        Spread(CONFIG, Layout(tensor=3))
