"""The run directory: what is kept, what is made again, who may enter."""

import subprocess
import sys
from pathlib import Path

import pytest

from amaru.config import Config
from amaru.config.records import read_record
from amaru.errors import ArtifactError
from amaru.recipes.run import Run


class Recipe(Config):
    """A recipe of one number."""

    size: int = 1


class Place(Config):
    """A recipe that names a place."""

    checkpoint: str


class Notes:
    """Progress that is remembered."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)

    def update(self, text: str) -> None:
        pass


def measured(run: Run, origin: str, values: list[int]) -> list[int]:
    """Appends to `values` whenever the step is really run."""

    def make() -> list[int]:
        values.append(len(values))
        return list(values)

    return run.result("step", {"origin": origin}, make)


def test_a_finished_step_is_kept_until_its_origin_changes(tmp_path: Path) -> None:
    values: list[int] = []
    for _ in range(2):
        with Run(tmp_path / "run", "trial", Recipe(), Notes()) as run:
            assert measured(run, "a", values) == [0]
    with Run(tmp_path / "run", "trial", Recipe(), Notes()) as run:
        assert measured(run, "b", values) == [0, 1]
        assert read_record(tmp_path / "run" / "run.json")["recipe"] == {"size": 1}
        assert set(read_record(tmp_path / "run" / "steps.json")) == {"step.json"}


def test_a_step_whose_file_is_gone_is_made_again(tmp_path: Path) -> None:
    values: list[int] = []
    with Run(tmp_path, "trial", Recipe(), Notes()) as run:
        measured(run, "a", values)
        run.path("step.json").unlink()
        assert measured(run, "a", values) == [0, 1]


def test_another_recipe_enters_only_an_empty_run(tmp_path: Path) -> None:
    with Run(tmp_path, "trial", Recipe(), Notes()):
        pass
    with Run(tmp_path, "trial", Recipe(size=2), Notes()) as run:
        measured(run, "a", [])
    with pytest.raises(ArtifactError, match="size: 2 there, 1 now"), Run(tmp_path, "trial", Recipe(), Notes()):
        pass


def test_two_processes_do_not_share_a_run(tmp_path: Path) -> None:
    code = "import fcntl, sys, time; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); print('in', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path / ".lock")], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "in\n"
        with pytest.raises(ArtifactError, match="Another process is working in"), Run(tmp_path, "trial", Recipe(), Notes()):
            pass
        other.kill()
    with Run(tmp_path, "trial", Recipe(), Notes()) as run:
        assert run.path("run.json").exists(), "a killed process leaves no lock behind"


def test_what_a_killed_process_half_wrote_is_cleared(tmp_path: Path) -> None:
    with Run(tmp_path, "trial", Recipe(), Notes()):
        pass
    (tmp_path / ".model.123.partial").mkdir()
    (tmp_path / ".steps.json.123.partial").write_text("{")
    (tmp_path / ".download.partial").write_text("somebody else's")
    with Run(tmp_path, "trial", Recipe(), Notes()):
        assert [path.name for path in tmp_path.glob(".*.partial")] == [".download.partial"]


def test_a_directory_that_is_no_run_yet_keeps_what_it_has(tmp_path: Path) -> None:
    (tmp_path / ".model.123.partial").write_text("not ours")
    with Run(tmp_path, "trial", Recipe(), Notes()):
        assert (tmp_path / ".model.123.partial").exists()


def test_a_run_that_failed_before_its_first_step_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no text"), Run(tmp_path / "run", "trial", Recipe(), Notes()):
        raise ArtifactError("no text")
    assert not (tmp_path / "run").exists()
    with pytest.raises(ArtifactError, match="late"), Run(tmp_path / "run", "trial", Recipe(), Notes()) as run:
        measured(run, "a", [])
        raise ArtifactError("late")
    assert (tmp_path / "run" / "step.json").exists()


def test_a_kill_while_a_step_is_made_again_does_not_bring_the_old_one_back(tmp_path: Path) -> None:
    with Run(tmp_path, "trial", Recipe(), Notes()) as run:
        measured(run, "a", [])

        def killed(path: Path) -> None:
            path.write_text("[1]")  # whole, but made from b, and never recorded
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run.keep("step.json", {"origin": "b"}, killed, read_record)
        assert measured(run, "a", [5]) == [5, 1]


def test_a_run_may_be_moved_and_damaged_records_are_sentences(tmp_path: Path) -> None:
    with Run(tmp_path / "here", "trial", Place(checkpoint="one/path"), Notes()) as run:
        measured(run, "a", [])
    (tmp_path / "here").rename(tmp_path / "there")
    with Run(tmp_path / "there", "trial", Place(checkpoint="another/path"), Notes()) as run:
        assert measured(run, "a", [9]) == [0]
    (tmp_path / "there" / "steps.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"steps\.json cannot be read"), Run(tmp_path / "there", "other", Recipe(), Notes()):
        pass
