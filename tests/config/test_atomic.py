"""Files and directories that appear whole or not at all, also when the process dies at any step."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from amaru.config.atomic import atomic_directory, atomic_file, recover_directory, storage_errors
from amaru.errors import StorageError


def write(path: Path, text: str) -> None:
    with atomic_directory(path) as directory:
        (directory / "one").write_text(text)
        (directory / "two").write_text(text)


def content(path: Path) -> set[str]:
    assert sorted(file.name for file in path.iterdir()) == ["one", "two"]
    return {file.read_text() for file in path.iterdir()}


def test_a_file_keeps_its_content_when_the_block_raises(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "scores.json"
    with atomic_file(file) as temporary:
        temporary.write_text("old")
    with pytest.raises(KeyError), atomic_file(file) as temporary:
        temporary.write_text("half")
        raise KeyError
    assert file.read_text() == "old" and list(file.parent.iterdir()) == [file]


def test_a_directory_replaces_the_one_before_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "model"
    write(path, "old")
    write(path, "new")
    assert content(path) == {"new"}
    with pytest.raises(KeyError), atomic_directory(path) as directory:
        (directory / "one").write_text("half")
        raise KeyError
    assert content(path) == {"new"} and list(tmp_path.iterdir()) == [path]


def test_what_a_dead_process_of_the_same_number_left_is_no_obstacle(tmp_path: Path) -> None:
    left = tmp_path / f".model.{os.getpid()}.partial"
    left.mkdir()
    (left / "three").write_text("stray")
    write(tmp_path / "model", "new")
    assert content(tmp_path / "model") == {"new"} and not left.exists()


# Audit events come before the act they announce: the process dies with that rename or removal not done.
DYING = """
import os, sys
from pathlib import Path
from amaru.config.atomic import atomic_directory
path, event, number = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
def die(name, arguments):
    global number
    if name == event and os.path.exists(arguments[0]):
        number -= 1
        if number == 0:
            os._exit(9)
with atomic_directory(path) as directory:
    (directory / "one").write_text("new")
    (directory / "two").write_text("new")
    sys.addaudithook(die)
"""


@pytest.mark.parametrize(
    ("event", "number", "there", "expected"),
    [("os.rename", 1, True, "old"), ("os.rename", 2, False, "old"), ("shutil.rmtree", 1, True, "new")],
    ids=["before", "between", "after"],
)
def test_a_crash_around_the_two_renames_leaves_a_whole_version(tmp_path: Path, event: str, number: int, there: bool, expected: str) -> None:
    path = tmp_path / "model"
    write(path, "old")
    assert subprocess.run([sys.executable, "-c", DYING, str(path), event, str(number)], timeout=60).returncode == 9
    assert path.exists() == there
    assert content(recover_directory(path)) == {expected} and not (tmp_path / ".model.previous").exists()
    write(path, "later")
    assert content(path) == {"later"}


def test_a_write_after_a_crash_between_the_renames_recovers_by_itself(tmp_path: Path) -> None:
    write(tmp_path / ".model.previous", "old")
    with pytest.raises(KeyError), atomic_directory(tmp_path / "model"):
        raise KeyError
    assert content(recover_directory(tmp_path / "model")) == {"old"}
    write(tmp_path / ".model.previous", "older")
    write(tmp_path / "model", "new")
    assert content(tmp_path / "model") == {"new"} and [path.name for path in tmp_path.iterdir()] == ["model"]


def test_recovery_of_nothing_is_nothing(tmp_path: Path) -> None:
    assert recover_directory(tmp_path / "model") == tmp_path / "model" and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "x"), "The disk is full while writing place; what was there before is untouched. Free some space"),
        (OSError(errno.EDQUOT, "x"), "The disk is full"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "The disk is full"),
        (OSError("1048576 requested and 4096 written"), "The disk is full"),  # numpy.ndarray.tofile
        (OSError(errno.EROFS, "x"), "Cannot write place: Read-only file system. Choose another --out."),
        (PermissionError(errno.EACCES, "x"), "Cannot write place: Permission denied."),
    ],
)
def test_disks_are_explained(error: Exception, said: str) -> None:
    with pytest.raises(StorageError) as caught, storage_errors(Path("place")):
        raise error
    assert said in str(caught.value)


def test_other_errors_pass_as_they_are() -> None:
    for error in (StorageError("said already"), KeyError("a"), OSError(errno.EBADF, "x")):
        with pytest.raises(type(error)) as caught, storage_errors(Path("place")):
            raise error
        assert caught.value is error
