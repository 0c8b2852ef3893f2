"""Files and directories that appear whole or not at all."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from amaru.errors import StorageError

FULL = ("No space left", "File too large", " requested and ")  # the last is numpy's: "1048576 requested and 4096 written"


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; sync and rename it over `path` if the block succeeds.

    >>> with atomic_file("scores.json") as temporary:
    ...     temporary.write_text("{}")

    Raises `StorageError` when the disk is full or read-only; the file that was at `path` is then untouched.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            sync(temporary)
            os.replace(temporary, path)
            sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_directory(path: str | Path) -> Iterator[Path]:
    """Yield a temporary directory; when the block succeeds it takes the place of `path`.

    A directory that was at `path` is moved aside first and deleted last, so at every instant one whole
    version exists under `path` or under `.NAME.previous`; `recover_directory` finds it after a crash.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    previous = _previous(path)
    with storage_errors(path):
        try:
            shutil.rmtree(temporary, ignore_errors=True)  # of a killed process with the same number: containers deal them out again
            temporary.mkdir(parents=True)
            yield temporary
            for file in temporary.rglob("*"):
                sync(file)
            sync(temporary)
            recover_directory(path)
            if path.exists():
                os.rename(path, previous)
            os.rename(temporary, path)
            sync(path.parent)
            shutil.rmtree(previous, ignore_errors=True)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def recover_directory(path: str | Path) -> Path:
    """Return `path`, after putting back the previous version if a crash fell between the two renames."""
    path = Path(path)
    previous = _previous(path)
    if previous.exists():
        if path.exists():
            shutil.rmtree(previous)
        else:
            os.rename(previous, path)
    return path


def _previous(path: Path) -> Path:
    return path.with_name(f".{path.name}.previous")


def sync(path: Path) -> None:
    """Return once the file or directory has reached the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn the errors of a disk into a sentence; safetensors and numpy report a full disk in words of their own."""
    try:
        yield
    except StorageError:
        raise
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else None
        if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or any(words in str(error) for words in FULL):
            raise StorageError(
                f"The disk is full while writing {path}; what was there before is untouched. "
                "Free some space and run the same command again."
            ) from error
        if number in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise StorageError(f"Cannot write {path}: {os.strerror(number)}. Choose another --out.") from error
        raise
