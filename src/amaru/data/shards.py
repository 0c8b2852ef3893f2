"""Tokenised text that stays on disk: prepared directories (`amaru data prepare`) and .npy files of tokens, memory-mapped.

    DIR/shard-00000.safetensors   tokens uint16 or uint32, documents closed by eos: those for training, then those for validation;
                                  starts int64, where each document begins; names uint8 and name_ends int64, what it is called
    DIR/dropped.jsonl             what was left out, and why
    DIR/tokenizer.json, ...       the tokenizer that made the tokens
    DIR/data.json                 the counts, and what all this was made from; written last, so a directory without it is unfinished

What is held in memory is 8 bytes a document.
"""

import json
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from amaru.config import fingerprint_bytes, fingerprint_file
from amaru.config.records import read_record
from amaru.data.packing import PackedRows
from amaru.data.tokenizer import Tokenizer
from amaru.errors import ArtifactError, DataError

KIND, SCHEMA = "prepared text", 1
RECORD = "data.json"
DTYPES = {"U8": np.uint8, "U16": np.uint16, "U32": np.uint32, "I64": np.int64, "F16": np.float16, "F32": np.float32}
SCANNED_AT_ONCE = 2**24  # tokens


@dataclass(frozen=True)
class Prepared:
    """`Prepared.load("tokens/")`: what a prepared directory holds; `rows("training", 512)` are packed rows of it."""

    directory: Path
    facts: dict[str, Any]

    @classmethod
    def load(cls, directory: str | Path) -> "Prepared":
        """Raises `ArtifactError` for a directory that is unfinished, or of another schema."""
        directory = Path(directory)
        if not (directory / RECORD).exists():
            raise ArtifactError(f"{directory} holds no prepared text: it has no {RECORD}. Run `amaru data prepare` until it is done.")
        facts = read_record(directory / RECORD)
        if (facts.get("kind"), facts.get("schema")) != (KIND, SCHEMA):
            raise ArtifactError(f"{directory / RECORD} is no {KIND} of schema {SCHEMA}; prepare the text anew with --out elsewhere.")
        return cls(directory, facts)

    def tokenizer(self) -> Tokenizer:
        return Tokenizer.load(self.directory)

    def rows(self, side: str, row_length: int) -> PackedRows:
        """The side "training" or "validation" in rows; nothing but the offsets of documents is read."""
        shards = [shard for shard in self.facts["shards"] if shard[side]["documents"]]
        if not shards:
            raise DataError(f"{self.directory} has no documents for {side}; prepare it with another validation share.")
        views = [_view(self.directory / shard["file"], shard, side) for shard in shards]
        made_from = {f"prepared {side}": self.facts["fingerprint"], "row length": str(row_length)}
        return joined_rows(views, row_length, made_from)


@dataclass(frozen=True)
class View:
    """Documents of one file: `tokens` and `starts` counted from the first of them, and `names(first, end)`."""

    tokens: np.ndarray
    starts: np.ndarray
    names: Callable[[int, int], list[str]]


class Joined:
    """Arrays end to end, of which slices are read: `Joined([first, second])[3:9]`."""

    def __init__(self, parts: Sequence[Any], lengths: Sequence[int]) -> None:
        self._parts, self._ends = parts, np.cumsum(lengths)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, part: slice) -> np.ndarray:
        return np.concatenate([self._parts[index][first:end] for index, first, end in self.places(part)])

    def places(self, part: slice) -> Iterator[tuple[int, int, int]]:
        """Which part, from where to where in it; at least one, which may be empty."""
        first, end, _ = part.indices(len(self))
        index = min(int(np.searchsorted(self._ends, first, "right")), len(self._ends) - 1)
        while True:
            begins = int(self._ends[index - 1]) if index else 0
            yield index, first - begins, max(first, min(end, int(self._ends[index]))) - begins
            first, index = int(self._ends[index]), index + 1
            if first >= end:
                return


class JoinedNames(Joined):
    """Names of documents, made or read when they are asked for."""

    def __getitem__(self, part: slice) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(name for index, first, end in self.places(part) for name in self._parts[index](first, end))


def joined_rows(views: Sequence[View], row_length: int, made_from: dict[str, str]) -> PackedRows:
    """Rows over the documents of several files, as if they were one."""
    tokens = Joined([view.tokens for view in views], [len(view.tokens) for view in views])
    names = JoinedNames([view.names for view in views], [len(view.starts) for view in views])
    offsets = np.cumsum([0, *(len(view.tokens) for view in views)])
    starts = np.concatenate([view.starts + offset for view, offset in zip(views, offsets[:-1], strict=True)])
    return PackedRows(tokens, starts, names, row_length, made_from)


def token_files(paths: Sequence[Path], tokenizer: Tokenizer, validation_share: float) -> Callable[[str, int], PackedRows]:
    """Rows over .npy files of token ids, documents closed by eos; a file ends a document. The last documents validate.

    >>> token_files([Path("a.npy")], tokenizer, 0.02)("training", 512)

    Raises `DataError` for a file that is no row of unsigned integers, or has ids that the tokenizer does not know.
    """
    views = [_token_file(path, tokenizer) for path in paths]
    tokens = sum(len(view.tokens) for view in views)
    made_from = {"tokens": fingerprint_bytes(*map(fingerprint_file, paths)), "tokenizer": tokenizer.fingerprint}

    def rows(side: str, row_length: int) -> PackedRows:
        whole = joined_rows(views, row_length, made_from | {"side": f"{side} {validation_share}", "row length": str(row_length)})
        cut = int(np.searchsorted(whole.starts, tokens * (1 - validation_share)))  # the first document behind that place
        if not 0 < cut < len(whole.starts):
            raise DataError(f"{paths[0]} has too few documents to keep some for validation; are they closed by token {tokenizer.eos_id}?")
        first, end = (0, cut) if side == "training" else (cut, len(whole.starts))
        return part_of(whole, first, end)

    return rows


def part_of(rows: PackedRows, first: int, end: int) -> PackedRows:
    """Documents `first` to `end - 1` of some rows, as rows of their own."""
    begins = int(rows.starts[first])
    ends = int(rows.starts[end]) if end < len(rows.starts) else len(rows.tokens)
    tokens, names = _Part(rows.tokens, begins, ends), _Part(rows.sources, first, end)
    return PackedRows(tokens, rows.starts[first:end] - begins, names, rows.row_length, rows.made_from)


class _Part:
    """A stretch of something that is read by slices."""

    def __init__(self, whole: Any, first: int, end: int) -> None:
        self._whole, self._first, self._end = whole, first, end

    def __len__(self) -> int:
        return self._end - self._first

    def __getitem__(self, part: slice) -> Any:
        first, end, _ = part.indices(len(self))
        return self._whole[self._first + first : self._first + end]


def mapped(path: Path, name: str) -> np.ndarray:
    """One array of a safetensors file, memory-mapped; raises `ArtifactError` when the file is cut short."""
    with path.open("rb") as file:
        size = struct.unpack("<Q", file.read(8))[0]
        entry = json.loads(file.read(size))[name]
    first, end = entry["data_offsets"]
    if 8 + size + end > path.stat().st_size:
        raise ArtifactError(f"{path} is cut short; delete it and run the same command again.")
    dtype = DTYPES[entry["dtype"]]
    return np.memmap(path, dtype, "r", 8 + size + first, tuple(entry["shape"])) if end > first else np.empty(0, dtype)


def _view(path: Path, shard: dict[str, Any], side: str) -> View:
    if not path.is_file():
        raise ArtifactError(f"{path} is missing; run `amaru data prepare` again.")
    starts, ends, names = mapped(path, "starts"), mapped(path, "name_ends"), mapped(path, "names")
    kept = shard["training"]
    first, begins = (0, 0) if side == "training" else (kept["documents"], kept["tokens"])
    documents, tokens = shard[side]["documents"], shard[side]["tokens"]

    def names_of(low: int, high: int) -> list[str]:
        borders = [int(ends[index - 1]) if index else 0 for index in range(first + low, first + high + 1)]
        return [names[a:b].tobytes().decode() for a, b in pairwise(borders)]

    view = mapped(path, "tokens")[begins : begins + tokens]
    return View(view, np.asarray(starts[first : first + documents]) - begins, names_of)


def _token_file(path: Path, tokenizer: Tokenizer) -> View:
    try:
        tokens = np.lib.format.open_memmap(path, mode="r")
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"{path} cannot be read as .npy: {error}.") from None
    if tokens.ndim != 1 or tokens.dtype not in (np.uint16, np.uint32) or not len(tokens):
        found = f"{tokens.dtype} {list(tokens.shape)}"
        raise DataError(f"{path} holds {found}; token files hold one row of uint16 or uint32 ids, documents closed by eos.")
    ends = []
    for first in range(0, len(tokens), SCANNED_AT_ONCE):
        some = np.asarray(tokens[first : first + SCANNED_AT_ONCE])
        if int(some.max()) >= tokenizer.vocab_size:
            raise DataError(f"{path} has token {int(some.max())}, the tokenizer knows 0 to {tokenizer.vocab_size - 1}: another tokenizer.")
        ends.append(np.flatnonzero(some == tokenizer.eos_id) + first + 1)
    starts = np.concatenate([[0], *ends]).astype(np.int64)
    return View(tokens, starts[starts < len(tokens)], lambda low, high: [f"{path}#{number + 1}" for number in range(low, high)])
