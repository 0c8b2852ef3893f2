"""What TensorBoard's own reader finds in the record, after a run that was stopped and continued."""

import builtins

import pytest
from tests.train.small import RECIPE, fresh_model, run

from amaru.errors import BackendError
from amaru.train.tensorboard import TensorBoard

accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


def test_every_step_stands_there_once(tmp_path, rows) -> None:
    def interrupted(metrics) -> None:
        board.write(metrics)
        if metrics.step == 5:
            raise KeyboardInterrupt

    with TensorBoard(tmp_path / "board") as board, pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", fresh_model(), RECIPE, rows, report=interrupted)
    with TensorBoard(tmp_path / "board") as board:
        history = run(tmp_path / "run", fresh_model(), RECIPE, rows, report=board.write, validate=lambda model: {"loss": 2.5})
    assert history.resumed_from == 4
    read = accumulator.EventAccumulator(str(tmp_path / "board"))
    read.Reload()
    losses = read.Scalars("loss")
    assert [event.step for event in losses] == list(range(1, RECIPE.steps + 1))
    assert [event.value for event in losses] == pytest.approx([step.loss for step in history.steps], rel=1e-6)
    assert [(event.step, event.value) for event in read.Scalars("validation/loss")] == [(RECIPE.steps, 2.5)]


def test_without_the_package_it_is_a_sentence(tmp_path, monkeypatch) -> None:
    find = builtins.__import__

    def missing(name, *rest):
        if name == "torch.utils.tensorboard":
            raise ImportError(name)
        return find(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(BackendError, match=r"pip install 'amaru\[tensorboard\]'"):
        TensorBoard(tmp_path)
