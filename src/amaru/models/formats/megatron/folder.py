"""Files by name, in a directory or inside a tar archive: where their bytes lie, without unpacking anything."""

import tarfile
from pathlib import Path
from typing import NamedTuple, Protocol

from amaru.errors import CheckpointError

MOST_MEMBERS = 1_000_000  # of an archive; the largest released one has some ten thousand


class Range(NamedTuple):
    """A file, or the part of a larger one that is a file."""

    path: Path
    start: int
    length: int

    def bytes(self, most: int) -> bytes:
        if self.length > most:
            raise CheckpointError(f"{self.path} has {self.length:,} bytes where at most {most:,} are read.")
        with open(self.path, "rb") as file:
            file.seek(self.start)
            return file.read(self.length)


class Folder(Protocol):
    """`folder.find("common.pt")`: where a file lies, or None; `path` is what to call the folder in a sentence."""

    path: Path

    def find(self, name: str) -> Range | None: ...
    def inside(self, name: str) -> "Folder": ...
    def with_file(self, name: str) -> list[str]:
        """The directories directly inside that hold a file of this name."""
        ...


class Directory:
    def __init__(self, path: Path) -> None:
        self.path = path

    def find(self, name: str) -> Range | None:
        file = self.path / name
        return Range(file, 0, file.stat().st_size) if file.is_file() else None

    def inside(self, name: str) -> "Directory":
        return Directory(self.path / name)

    def with_file(self, name: str) -> list[str]:
        return sorted(each.name for each in self.path.iterdir() if (each / name).is_file()) if self.path.is_dir() else []


class Tar:
    """An archive; `inside` is one of its directories. Raises `CheckpointError` for one that is damaged or compressed."""

    def __init__(self, path: Path) -> None:
        self.path, self._inside = path, ""
        try:
            with tarfile.open(path, "r:") as archive:
                self._files = {}
                for count, member in enumerate(archive):
                    if count >= MOST_MEMBERS:
                        raise CheckpointError(f"{path} has more than {MOST_MEMBERS:,} members.")
                    if member.isreg() and not member.issparse():
                        self._files[member.name.removeprefix("./")] = Range(path, member.offset_data, member.size)
        except (tarfile.TarError, OSError, ValueError, EOFError) as error:
            raise CheckpointError(f"{path} is no tar archive or a damaged one ({error}); a compressed one is unpacked first.") from None
        size = path.stat().st_size
        for name, member in self._files.items():
            if member.start + member.length > size:
                raise CheckpointError(f"{path} is cut short: the bytes of {name[:80]!r} lie past its end.")

    def inside(self, name: str) -> "Tar":
        """One directory of the archive."""
        view = object.__new__(Tar)
        view.path, view._files, view._inside = self.path, self._files, f"{self._inside}{name}/"
        return view

    def find(self, name: str) -> Range | None:
        return self._files.get(self._inside + name)

    def with_file(self, name: str) -> list[str]:
        parts = (file.removeprefix(self._inside).split("/") for file in self._files if file.startswith(self._inside))
        return sorted(first for first, *rest in parts if rest == [name])
