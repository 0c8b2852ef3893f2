"""From files to prepared shards, unit by unit: what each process does, and what is decided between the two passes.

    units    what becomes one shard: a piece of a large file, or several small files; they follow from the files alone
    survey   reads a unit: a hash of every text, and what is wrong with the others
    choose   of equal hashes the first stays
    shard    reads the unit again, tokenises what stays, writes the shard

Neither the number of processes nor an interruption changes a byte of the result. Imports no torch, so processes start fast.
"""

import functools
import hashlib
import json
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from amaru.config import Artifact, Config, fingerprint_bytes
from amaru.data.files import LINES, Piece, Problem, lines_in, pieces, read
from amaru.data.packing import closed
from amaru.data.tokenizer import Tokenizer
from amaru.errors import ArtifactError

NORMAL_FORM = "Unicode NFC, every run of white space as one space, none at the ends"
SURVEY, SHARD, SCHEMA = "survey of texts", "token shard", 1
DIGEST = 16  # bytes; two of a million million different texts agree with a chance of 1e-15
EMPTY, DUPLICATE, NO_TOKEN = "empty", "duplicate", "no token"
Unit = tuple[Piece, ...]


class Reading(Config):
    """How texts are read and chosen: `Reading(field="text", validation_share=0.02, seed=0)`."""

    field: str = "text"
    validation_share: float = 0.02
    seed: int = 0


@dataclass(frozen=True)
class Survey:
    """`digests` uint8 [texts, DIGEST] of the texts of a unit in order, `records` read in all, `lines` in each piece cut from a file."""

    digests: np.ndarray
    lines: tuple[int, ...]
    records: int


def digest(text: str) -> bytes:
    """A hash of the text in its normal form, by which duplicates are known; empty when nothing is in it."""
    normal = " ".join(unicodedata.normalize("NFC", text).split())
    return hashlib.blake2b(normal.encode(), digest_size=DIGEST).digest() if normal else b""


def units(files: Sequence[Piece], size: int) -> list[Unit]:
    """Pieces of about `size` bytes of text, in the order of the files; small files together."""
    found: list[Unit] = []
    held: list[Piece] = []
    weight = 0
    for file in files:
        for piece in pieces(file.path, size):
            begins, ends = piece.first, Path(file.path).stat().st_size if piece.end is None else piece.end
            piece_size = size if file.path.endswith(".parquet") else ends - begins
            if held and weight + piece_size > size:
                found.append(tuple(held))
                held, weight = [], 0
            held.append(replace(piece, name=file.name))
            weight += piece_size
    return [*found, tuple(held)] if held else found


def identity(unit: Unit, reading: Reading) -> str:
    """A hash of what is read and how: names, ranges, and the size and time of each file."""
    stats = [Path(piece.path).stat() for piece in unit]
    return fingerprint_bytes(repr(unit), repr(reading), *(f"{stat.st_size} {stat.st_mtime_ns}" for stat in stats))


def survey(unit: Unit, reading: Reading, path: Path) -> Survey:
    """Read a unit once, unless `path` holds its survey already."""
    made_from = {"unit": identity(unit, reading)}
    if found := _kept(path, SURVEY, made_from):
        return Survey(found.arrays["digests"], tuple(found.content["lines"]), found.content["records"])
    digests, records = [], 0
    for record in (record for piece in unit for record in read(piece, reading.field)):
        records += 1
        if record.problem is None and (of_text := digest(record.text)):
            digests.append(of_text)
    lines = [lines_in(piece) if piece.end and Path(piece.path).suffix.lower() in LINES else 0 for piece in unit]
    array = np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, DIGEST)
    content = {"lines": lines, "records": records}
    Artifact(kind=SURVEY, schema=SCHEMA, made_from=made_from, content=content, arrays={"digests": array}).save(path)
    return Survey(array, tuple(lines), records)


def choose(surveys: Sequence[Survey]) -> list[np.ndarray]:
    """For each unit, which of its texts stay: of texts with one hash the first."""
    counts = [len(each.digests) for each in surveys]
    digests = np.concatenate([each.digests for each in surveys])
    stay = np.zeros(len(digests), dtype=bool)
    stay[np.unique(digests.view(f"V{DIGEST}").ravel(), return_index=True)[1]] = True
    return np.split(stay, np.cumsum(counts)[:-1])


def numbered(some: Sequence[Unit], surveys: Sequence[Survey]) -> list[Unit]:
    """The units with the true numbers of their first lines, which follow from the lines of the pieces before."""
    lines: dict[str, int] = {}
    found = []
    for unit, told in zip(some, surveys, strict=True):
        found.append(tuple(replace(piece, number=piece.number + lines.get(piece.path, 0)) for piece in unit))
        for piece, count in zip(unit, told.lines, strict=True):
            lines[piece.path] = lines.get(piece.path, 0) + count
    return found


def shard(unit: Unit, stay: np.ndarray, reading: Reading, tokenizer: str, path: Path) -> None:
    """Tokenise what stays of a unit and write it, unless `path` holds it already; what is left out is written along with its reason."""
    known = _tokenizer(tokenizer)
    made_from = {"unit": identity(unit, reading), "stay": fingerprint_bytes(stay.tobytes()), "tokenizer": known.fingerprint}
    if _kept(path, SHARD, made_from):
        return
    kept: list[_Kept] = []
    dropped: list[Problem] = []
    for found in _decided(unit, stay, reading):
        dropped.append(found) if isinstance(found, Problem) else kept.append(found)
    kept.sort(key=lambda document: document.late)  # stable: the order of the files within each side
    tokens = list(closed([document.text for document in kept], known))
    dropped += [Problem(NO_TOKEN, f"{document.source} has no token.") for document, ids in zip(kept, tokens, strict=True) if len(ids) < 2]
    whole = [(document, ids) for document, ids in zip(kept, tokens, strict=True) if len(ids) > 1]
    _write(path, made_from, whole, dropped, np.dtype(np.uint16 if known.vocab_size <= 2**16 else np.uint32))


class _Kept(NamedTuple):
    source: str
    text: str
    late: bool  # kept for validation


def _decided(unit: Unit, stay: np.ndarray, reading: Reading) -> Iterator[_Kept | Problem]:
    """Every record of a unit: to be kept, and on which side, or why not."""
    texts = iter(stay.tolist())
    for record in (record for piece in unit for record in read(piece, reading.field)):
        of_text = b"" if record.problem else digest(record.text)
        if record.problem:
            yield record.problem
        elif not of_text:
            yield Problem(EMPTY, f"{record.source} has no text.")
        elif not next(texts):
            yield Problem(DUPLICATE, f"{record.source} repeats an earlier text.")
        else:
            yield _Kept(record.source, record.text, _validates(of_text, reading))


def _write(path: Path, made_from: dict[str, str], kept: list[tuple[_Kept, np.ndarray]], dropped: list[Problem], dtype: np.dtype) -> None:
    lengths = np.array([len(ids) for _, ids in kept], dtype=np.int64)
    late = np.array([document.late for document, _ in kept], dtype=bool)
    names = [document.source.encode() for document, _ in kept]
    lines = "".join(json.dumps(problem._asdict(), ensure_ascii=False) + "\n" for problem in dropped)
    arrays = {
        "tokens": np.concatenate([np.empty(0, dtype), *(ids for _, ids in kept)]),
        "starts": np.cumsum(lengths) - lengths,
        "names": np.frombuffer(b"".join(names), dtype=np.uint8),
        "name_ends": np.cumsum([len(name) for name in names], dtype=np.int64),
        "dropped": np.frombuffer(lines.encode(), dtype=np.uint8),
    }
    content = {
        "training": {"documents": int((~late).sum()), "tokens": int(lengths[~late].sum())},
        "validation": {"documents": int(late.sum()), "tokens": int(lengths[late].sum())},
        "bytes": sum(len(document.text.encode()) for document, _ in kept),
        "lengths": np.bincount(np.log2(lengths).astype(int)).tolist(),  # by powers of two
    }
    Artifact(kind=SHARD, schema=SCHEMA, made_from=made_from, content=content, arrays=arrays).save(path)


def _validates(of_text: bytes, reading: Reading) -> bool:
    """Decided by a hash of text and seed alone, so that equal texts fall on one side and a text added later moves no other."""
    point = hashlib.blake2b(of_text, key=reading.seed.to_bytes(8, "little"), digest_size=8).digest()
    return int.from_bytes(point, "little") / 2**64 < reading.validation_share


def _kept(path: Path, kind: str, made_from: dict[str, str]) -> Artifact | None:
    try:
        found = Artifact.load(path, kind=kind, schema=SCHEMA)
    except ArtifactError:
        return None
    return found if found.made_from == made_from else None


@functools.lru_cache(maxsize=1)
def _tokenizer(directory: str) -> Tokenizer:
    return Tokenizer.load(directory)
