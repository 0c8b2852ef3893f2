"""One file to texts: plain text, JSON lines and parquet, each record with its place, or with what is wrong with it.

    for record in read(Piece("stories.jsonl"), field="text"):
        record.source, record.text, record.problem      # "stories.jsonl:3", "Once upon a time", None

A file may be read in pieces by several processes: JSON lines by ranges of bytes, parquet by row groups.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from amaru.errors import BackendError, DataError

SEPARATOR = "<|endoftext|>"
LINES, PARQUET = (".jsonl", ".ndjson"), (".parquet",)


class Problem(NamedTuple):
    """Why a record has no text: in a few words to count by, and in a sentence about this one."""

    reason: str
    sentence: str


class Record(NamedTuple):
    """One text, or why there is none; `source` says where it stands (`stories.txt#3`, `poems.jsonl:12`)."""

    source: str
    text: str
    problem: Problem | None = None


@dataclass(frozen=True)
class Piece:
    """A file, or part of one: bytes from the beginning of one line to that of another, or row groups of parquet (`end` None: all).

    `number` is that of the first line or row, counted from 1; `name` what records are called after, the path unless given.
    """

    path: str
    first: int = 0
    end: int | None = None
    number: int = 1
    name: str | None = None

    @property
    def title(self) -> str:
        return self.name or self.path


def read(piece: Piece, field: str) -> Iterator[Record]:
    """The records of a piece, in order. Raises `DataError` for a parquet file that is none or lacks the column."""
    suffix = Path(piece.path).suffix.lower()
    if suffix in PARQUET:
        yield from _column(piece, field)
    elif suffix in LINES:
        yield from _lines(piece, field)
    else:
        data = _bytes(piece)
        text, problem = _decoded(data, piece.title)
        yield from _pieces(piece.title, text) if problem is None else [Record(piece.title, "", problem)]


def pieces(path: str | Path, size: int) -> list[Piece]:
    """A file in pieces of about `size` bytes where its kind allows it, else as a whole."""
    path = Path(path)
    if path.suffix.lower() in PARQUET:
        return _row_groups(path, size)
    if path.suffix.lower() in LINES and path.stat().st_size > size:
        return _at_line_ends(path, size)
    return [Piece(str(path))]


def objects(piece: Piece) -> Iterator[tuple[str, dict[str, Any] | Problem]]:
    """Whole records (JSON lines and parquet) under their names, for data that is more than one text."""
    if Path(piece.path).suffix.lower() in PARQUET:
        for number, row in enumerate(_rows(piece, None), start=piece.number):
            yield f"{piece.title}:{number}", row
        return
    for number, line in _numbered(piece):
        source = f"{piece.title}:{number}"
        text, problem = _decoded(line, source)
        yield source, _object(text, source) if problem is None else problem


def lines_in(piece: Piece) -> int:
    """How many lines a piece of JSON lines has, blank ones too: the next piece of the file is numbered from there."""
    with _opened(piece.path) as file:
        file.seek(piece.first)
        left = (Path(piece.path).stat().st_size if piece.end is None else piece.end) - piece.first
        count = 0
        while left > 0 and (data := file.read(min(left, 2**20))):
            count, left = count + data.count(b"\n"), left - len(data)
        return count


def parquet(path: Path) -> Any:
    """The opened file; raises `DataError` when it is none, `BackendError` when pyarrow is not installed."""
    try:
        import pyarrow
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise BackendError(f"Reading {path} needs pyarrow; install it with: pip install 'amaru[data]'") from None
    try:
        return ParquetFile(path)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} cannot be read as parquet: {' '.join(str(error).split())}") from None


def _lines(piece: Piece, field: str) -> Iterator[Record]:
    for source, found in objects(piece):
        if isinstance(found, Problem):
            yield Record(source, "", found)
        elif field not in found:
            yield Record(source, "", Problem(f"no field '{field}'", f"{source} has no field '{field}'; it has: {', '.join(found)}."))
        elif not isinstance(found[field], str):
            yield Record(source, "", _no_text(source, field, found[field]))
        else:
            yield from _pieces(source, found[field])


def _column(piece: Piece, field: str) -> Iterator[Record]:
    for number, row in enumerate(_rows(piece, field), start=piece.number):
        source = f"{piece.title}:{number}"
        if isinstance(row[field], str):
            yield from _pieces(source, row[field])
        else:
            yield Record(source, "", _no_text(source, field, row[field]))


def _rows(piece: Piece, field: str | None) -> Iterator[dict[str, Any]]:
    """Rows of a parquet piece, one column or all."""
    file = parquet(Path(piece.path))
    if field is not None and field not in file.schema_arrow.names:
        raise DataError(f"{piece.path} has no column '{field}'; it has: {', '.join(file.schema_arrow.names)}. Name one with --field.")
    groups = list(range(piece.first, file.metadata.num_row_groups if piece.end is None else piece.end))
    for batch in file.iter_batches(row_groups=groups, columns=None if field is None else [field]):
        yield from batch.to_pylist()


def _numbered(piece: Piece) -> Iterator[tuple[int, bytes]]:
    """The lines of a piece that are not blank, with their numbers."""
    with _opened(piece.path) as file:
        file.seek(piece.first)
        number = piece.number
        while piece.end is None or file.tell() < piece.end:
            line = file.readline()
            if not line:
                return
            if line.strip():
                yield number, line.rstrip(b"\r\n")
            number += 1


def as_object(found: object, source: str, escaped: bool = True) -> dict[str, Any] | Problem:
    """What JSON held, if it is an object of whole texts; only where there are escapes can there be half a letter."""
    if not isinstance(found, dict):
        return Problem("no JSON object", f"{source} is no JSON object with fields; it is {type(found).__name__}.")
    try:
        if escaped:
            json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = ascii(str(error.object)[error.start]).strip("'")
        return Problem("half a letter", f"{source} holds {half}, half of a letter without its other half, which no file can hold.")
    return found


def _object(line: str, source: str) -> dict[str, Any] | Problem:
    try:
        found = json.loads(line)
    except json.JSONDecodeError as error:
        return Problem("not JSON", f"{source} is not JSON: {error.msg} at column {error.colno}.")
    except RecursionError:
        return Problem("not JSON", f"{source} is nested deeper than JSON is read.")
    return as_object(found, source, escaped="\\u" in line)


def _no_text(source: str, field: str, value: object) -> Problem:
    return Problem(f"'{field}' is no text", f"{source}: the field '{field}' must be text; it is {type(value).__name__}.")


def _pieces(source: str, text: str) -> Iterator[Record]:
    """Cut at the marker, so that it is always a boundary and never a token inside a document."""
    if SEPARATOR not in text:
        yield Record(source, text)
        return
    parts = [part.strip("\r\n") for part in text.split(SEPARATOR)]
    last = len(parts) - (parts[-1] == "")  # a marker at the end of a file closes a document and opens none
    yield from (Record(f"{source}#{number}", part) for number, part in enumerate(parts[:last], start=1))


def _decoded(data: bytes, source: str) -> tuple[str, Problem | None]:
    zero = data.find(b"\0")
    if zero >= 0:
        sentence = f"{source} is not text: it has a zero byte at offset {zero}. Only UTF-8 text is read; leave it out."
        return "", Problem("not UTF-8 text", sentence)
    try:
        return data.decode("utf-8").removeprefix("\ufeff"), None
    except UnicodeDecodeError as error:
        sentence = (
            f"{source} is not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start} cannot be decoded. "
            f"Convert it (iconv -t UTF-8) or leave it out."
        )
        return "", Problem("not UTF-8 text", sentence)


def _bytes(piece: Piece) -> bytes:
    with _opened(piece.path) as file:
        return file.read()


def _opened(path: str) -> Any:
    try:
        return open(path, "rb")
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror}.") from None


def _row_groups(path: Path, size: int) -> list[Piece]:
    """Row groups put together until they are large enough."""
    metadata = parquet(path).metadata
    found, first, held, row = [], 0, 0, 1
    number = row
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        held, row = held + group.total_byte_size, row + group.num_rows
        if held >= size or index == metadata.num_row_groups - 1:
            found.append(Piece(str(path), first, index + 1, number))
            first, held, number = index + 1, 0, row
    return found


def _at_line_ends(path: Path, size: int) -> list[Piece]:
    ends = []
    with path.open("rb") as file:
        for aimed in range(size, path.stat().st_size, size):
            file.seek(aimed - 1)
            file.readline()
            ends.append(file.tell())
    ends = sorted({*ends, path.stat().st_size})
    return [Piece(str(path), first, end) for first, end in zip([0, *ends[:-1]], ends, strict=True)]
