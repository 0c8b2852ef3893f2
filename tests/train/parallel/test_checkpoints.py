"""A run that goes on in another layout: the same bits in weights and moments, and the same curve."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.parallel.ranks import Ranks
from tests.train.parallel.spread_run import CONFIG, SHORT, alone, assembled, interrupted, restored

from amaru.train.parallel.checkpoints import whole
from amaru.train.parallel.layout import Layout


def goes_on(tmp_path: Path, legs: list[tuple[Ranks, Layout, int]]) -> None:
    """Each leg continues the run up to some step, in its own layout."""
    out, before = tmp_path / "spread", 0
    for number, (ranks, layout, steps) in enumerate(legs):
        (losses, begun), *others = ranks(interrupted, out, layout, steps, number % 2 == 1)
        assert begun == before and all(other == (losses, begun) for other in others)
        saved = assembled(ranks(restored, out, layout))
        path = sorted((out / "checkpoints").glob("step-*"))[-1]
        assert path.name == f"step-{steps:08d}"
        for name in dict(CONFIG.tensors()):  # one process without any group reads the same bits
            assert torch.equal(whole(path, CONFIG, name), saved[f"{name}/"]), name
        for other, elsewhere, _ in legs[number + 1 : number + 2]:
            again = assembled(other(restored, out, elsewhere))
            assert again.keys() == saved.keys() and all(torch.equal(again[name], saved[name]) for name in saved)
        before = steps
    steps, _ = alone(tmp_path / "alone", recipe=replace(SHORT, steps=6), dtype=torch.float32)
    assert losses == pytest.approx([step.loss for step in steps], rel=1e-5)


def test_a_run_goes_on_in_another_layout(two: Ranks, tmp_path: Path) -> None:
    goes_on(tmp_path, [(two, Layout(data=2), 2), (two, Layout(tensor=2, sequence=True), 4), (two, Layout(tensor=2), 6)])


@pytest.mark.soak
def test_a_run_goes_on_in_one_two_four_and_one_process(two: Ranks, four: Ranks, tmp_path: Path) -> None:
    with Ranks(1) as one:
        legs = [(one, Layout(), 2), (two, Layout(tensor=2), 3), (four, Layout(data=2, tensor=2), 5), (one, Layout(), 6)]
        goes_on(tmp_path, legs)


def test_a_cut_checkpoint_is_left_for_the_one_before(two: Ranks, tmp_path: Path) -> None:
    two(interrupted, tmp_path, Layout(data=2), 4, False, 0.0)
    newest = tmp_path / "checkpoints" / "step-00000004"
    file = newest / "00001.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    (tmp_path / "checkpoints" / ".step-00000005.partial").mkdir()
    assert [begun for _, begun in two(interrupted, tmp_path, Layout(tensor=2), 6)] == [3, 3]
    assert not (tmp_path / "checkpoints" / ".step-00000005.partial").exists()


def test_no_pickle_is_written(two: Ranks, tmp_path: Path) -> None:
    two(interrupted, tmp_path, Layout(data=2), 2)
    files = {file.name for file in (tmp_path / "checkpoints" / "step-00000002").iterdir()}
    assert files == {"00000.safetensors", "00001.safetensors", "state.safetensors"}
