"""Interrupted, killed, damaged, out of disk: the same call ends in the same bits as a run that nothing disturbed."""

import logging
import os
import resource
import shutil
import signal
import time
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from tests.train.small import RECIPE, fresh_model, run, start

from amaru.errors import ArtifactError, StorageError
from amaru.train.checkpoint import fingerprint_weights
from amaru.train.metrics import History, read

TIMED = ("seconds", "tokens_per_second", "memory")


def untimed(steps) -> list[dict]:
    """What of the metrics is a function of the run, not of the machine."""
    return [{name: value for name, value in asdict(step).items() if name not in TIMED} for step in steps]


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory, rows) -> tuple[str, list[dict]]:
    history = run(tmp_path_factory.mktemp("undisturbed"), model := fresh_model(), RECIPE, rows)
    return fingerprint_weights(model), untimed(history.steps)


def finish(out: Path, rows, undisturbed) -> History:
    """Repeat the same call and require the undisturbed end."""
    history = run(out, model := fresh_model(), RECIPE, rows)
    assert (fingerprint_weights(model), untimed(history.steps)) == undisturbed
    assert untimed(read(out / "metrics.jsonl")) == undisturbed[1]
    return history


def at_step(number: int, action):
    return lambda metrics: action() if metrics.step == number else None


@contextmanager
def largest_file(size: int):
    """A disk on which no file can grow beyond `size`."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_and_saves(tmp_path, rows, undisturbed, number) -> None:
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    rare = replace(RECIPE, checkpoint_seconds=1e6)
    with pytest.raises(KeyboardInterrupt, match="Stopped after step 4 of 9; the same command continues"):
        run(tmp_path, fresh_model(), rare, rows, report=at_step(4, lambda: os.kill(os.getpid(), number)))
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert finish(tmp_path, rows, undisturbed).resumed_from == 4


def test_the_second_signal_stops_at_once(tmp_path, rows, undisturbed) -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, fresh_model(), RECIPE, rows, report=at_step(4, twice))
    assert finish(tmp_path, rows, undisturbed).resumed_from == 3


@pytest.mark.parametrize("step", [1, 5])
def test_an_exception_in_a_callback_loses_no_more_than_its_step(tmp_path, rows, undisturbed, step: int) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, fresh_model(), RECIPE, rows, report=at_step(step, stop))
    assert len(read(tmp_path / "metrics.jsonl")) == step
    assert finish(tmp_path, rows, undisturbed).resumed_from == step - 1


def test_a_finished_run_is_not_run_again(tmp_path, rows, undisturbed) -> None:
    run(tmp_path, fresh_model(), RECIPE, rows)
    assert finish(tmp_path, rows, undisturbed).resumed_from == RECIPE.steps
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-00000008", "step-00000009"]


def stop_after(steps: int, out: Path, rows) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(out, fresh_model(), RECIPE, rows, report=at_step(steps, lambda: os.kill(os.getpid(), signal.SIGINT)))


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


@pytest.mark.parametrize("damage", [flip, cut, Path.unlink])
@pytest.mark.parametrize("name", ["model", "optimizer", "state"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, rows, undisturbed, caplog, name: str, damage) -> None:
    stop_after(5, tmp_path, rows)
    damage(tmp_path / f"checkpoints/step-00000005/{name}.safetensors")
    with caplog.at_level(logging.WARNING):
        assert finish(tmp_path, rows, undisturbed).resumed_from == 4
    assert "step-00000005 is damaged" in caplog.text


def test_without_a_whole_checkpoint_it_starts_anew(tmp_path, rows, undisturbed) -> None:
    stop_after(5, tmp_path, rows)
    for file in tmp_path.glob("checkpoints/*/model.safetensors"):
        cut(file)
    assert finish(tmp_path, rows, undisturbed).resumed_from == 0


def test_another_run_in_the_same_place_is_refused(tmp_path, rows) -> None:
    stop_after(3, tmp_path, rows)
    with pytest.raises(ArtifactError, match="made from another recipe"):
        run(tmp_path, fresh_model(), replace(RECIPE, lr=1e-3), rows)
    with pytest.raises(ArtifactError, match="made from another starting model"):
        run(tmp_path, fresh_model(seed=1), RECIPE, rows)
    with pytest.raises(ArtifactError, match="made from another training text"):
        run(tmp_path, fresh_model(), RECIPE, replace(rows, made_from=rows.made_from | {"documents": "others"}))
    with pytest.raises(ArtifactError, match="made from another teacher"):
        run(tmp_path, fresh_model(), RECIPE, rows, made_from={"teacher": "f00"})


def test_the_random_state_comes_back(tmp_path, rows) -> None:
    """An objective that draws numbers draws the same ones after a resume."""
    drawn: list[float] = []
    draw = {"validate": lambda model: {"draw": drawn.append(torch.rand(()).item()) or drawn[-1]}}
    recipe = replace(RECIPE, validate_every=1)
    expected = run(tmp_path / "whole", fresh_model(), recipe, rows, **draw)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", fresh_model(), recipe, rows, **draw, report=at_step(4, lambda: os.kill(os.getpid(), signal.SIGINT)))
    torch.rand(7)
    assert untimed(run(tmp_path / "cut", fresh_model(), recipe, rows, **draw).steps) == untimed(expected.steps)


def test_a_full_disk_is_a_sentence_and_loses_nothing(tmp_path, rows, undisturbed) -> None:
    stop_after(3, tmp_path, rows)
    with (
        largest_file(20_000),
        pytest.raises(StorageError, match=r"The disk is full while writing .*step-00000004; what was there before is"),
    ):
        run(tmp_path, fresh_model(), RECIPE, rows)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-00000002", "step-00000003"]
    assert finish(tmp_path, rows, undisturbed).resumed_from == 3


def test_a_full_disk_while_writing_metrics(tmp_path, rows, undisturbed) -> None:
    stop_after(3, tmp_path, rows)
    room = (tmp_path / "metrics.jsonl").stat().st_size + 50
    with largest_file(room), pytest.raises(StorageError, match=r"The disk is full while writing .*metrics\.jsonl"):
        run(tmp_path, fresh_model(), RECIPE, rows)
    assert finish(tmp_path, rows, undisturbed).resumed_from == 3


def undisturbed_run(out: Path) -> None:
    run(out, fresh_model())


def run_until_a_file_grows(out: Path) -> None:
    """From the fifth step on the kernel kills whoever writes more than so many bytes into a file."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    run(out, fresh_model(), report=at_step(5, limit))


def test_killed_in_the_middle_of_saving(tmp_path, rows, undisturbed) -> None:
    child = start(run_until_a_file_grows, tmp_path)
    child.join()
    assert child.exitcode == -signal.SIGXFSZ
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names[0].startswith(".step-00000005.") and names[1:] == ["step-00000003", "step-00000004"]
    assert finish(tmp_path, rows, undisturbed).resumed_from == 4
    assert not list((tmp_path / "checkpoints").glob(".*"))


@pytest.mark.soak
def test_killed_at_any_moment(tmp_path, rows, undisturbed) -> None:
    for attempt in range(12):
        out = tmp_path / str(attempt)
        child = start(undisturbed_run, out)
        while len(read(out / "metrics.jsonl")) < 1 + attempt % 5 and child.is_alive():
            time.sleep(0.002)
        time.sleep(0.004 * attempt)
        child.kill()
        child.join()
        finish(out, rows, undisturbed)


@pytest.mark.parametrize("background", [False, True])
def test_the_newest_and_the_best_are_kept(tmp_path, rows, background: bool) -> None:
    """The lowest validation loss is after step 4: it stays beside the newest three, and its weights are what the run ends with."""
    prints: dict[int, str] = {}
    model = fresh_model()

    def validate(validated) -> dict[str, float]:
        prints[len(prints) + 1] = fingerprint_weights(validated)
        return {"loss": abs(len(prints) - 4.0)}

    recipe = replace(RECIPE, validate_every=1, keep_best=True, checkpoint_keep=3, checkpoint_in_background=background)
    history = run(tmp_path, model, recipe, rows, validate=validate)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == [f"step-0000000{step}" for step in (4, 7, 8, 9)]
    assert history.best == 4 and fingerprint_weights(model) == prints[4] != prints[9]
    again = fresh_model()
    assert run(tmp_path, again, recipe, rows, validate=validate).resumed_from == 9
    assert fingerprint_weights(again) == prints[4]


def test_in_the_background_the_same_states_are_saved(tmp_path, rows, undisturbed) -> None:
    history = run(tmp_path, model := fresh_model(), replace(RECIPE, checkpoint_in_background=True), rows)
    assert (fingerprint_weights(model), untimed(history.steps)) == undisturbed
    for step in (9, 8):
        assert finish(tmp_path, rows, undisturbed).resumed_from == step
        shutil.rmtree(tmp_path / f"checkpoints/step-0000000{step}")


def test_a_full_disk_in_the_background_is_said_at_the_next_save(tmp_path, rows, undisturbed) -> None:
    stop_after(3, tmp_path, rows)
    with largest_file(20_000), pytest.raises(StorageError, match=r"The disk is full while writing .*step-00000004; what was there before"):
        run(tmp_path, fresh_model(), replace(RECIPE, checkpoint_in_background=True), rows)
    assert finish(tmp_path, rows, undisturbed).resumed_from == 3
