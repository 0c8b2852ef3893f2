"""Documents packed end to end into rows of fixed length, with every boundary kept.

    stream    d1 d1 d1 eos d2 d2 eos d3 ...        every document, then eos
    ids       d1 d1 d1 eos | d2 d2 eos d3 | ...    cut into rows of row_length (here 4); the last row may be shorter
    targets   d1 d1 eos  - | d2 eos -  d3 | ...    the next token of the same document; - (IGNORED) where a document ends

Nothing is dropped: each token but the first of its document is a target exactly once. The state starts from zero at
the start of each document and of each row.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from amaru.config import Artifact
from amaru.data.corpus import Document, fingerprint
from amaru.data.tokenizer import Tokenizer
from amaru.errors import ArtifactError, DataError

IGNORED = -100  # the target that no loss counts; torch's own convention
KIND, SCHEMA = "packed rows", 1
ENCODED_AT_ONCE = 512  # documents; bounds the memory that encodings take beside the stream


class Row(NamedTuple):
    """`ids` and `targets` int64 [length], `starts` int64: where a document, or the rest of one, begins; starts[0] is 0."""

    ids: np.ndarray
    targets: np.ndarray
    starts: np.ndarray


class Rows(Protocol):
    """What batches are made of: rows of at most `row_length` tokens, `positions` input tokens and `targets` in all of them."""

    def __len__(self) -> int: ...

    @property
    def row_length(self) -> int: ...

    @property
    def positions(self) -> int: ...

    @property
    def targets(self) -> int: ...

    @property
    def fingerprint(self) -> str: ...

    def row(self, index: int) -> Row: ...

    def lengths(self, indices: np.ndarray) -> np.ndarray:
        """The input tokens of some rows."""
        ...

    def documents_of(self, index: int) -> tuple[str, ...]:
        """The names of the documents that a row holds something of."""
        ...


class Slices(Protocol):
    """Tokens or names that are read a slice at a time: an array in memory, or files that are larger (data/shards.py)."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> Any: ...


@dataclass(frozen=True)
class PackedRows:
    """The token stream of a corpus, read row by row.

    `tokens` uint16 or uint32 [stream]; `starts` int64 [documents], the offset of each document in it;
    `sources` the name of each document; `made_from` the hashes of documents and tokenizer, and the row length.
    """

    tokens: Slices
    starts: np.ndarray
    sources: Slices
    row_length: int
    made_from: dict[str, str]

    def __len__(self) -> int:
        return -(-self.positions // self.row_length)

    def __str__(self) -> str:
        tail = self.positions % self.row_length
        short = f", the last of {tail}" if tail else ""
        return f"{len(self):,} rows of {self.row_length:,} tokens{short}; {self.targets:,} targets in {len(self.sources):,} documents"

    @property
    def positions(self) -> int:
        """Input tokens in all rows: the stream without its last eos, after which nothing comes."""
        return len(self.tokens) - 1

    @property
    def targets(self) -> int:
        """Tokens that are predicted: all but the first of each document."""
        return len(self.tokens) - len(self.starts)

    def row(self, index: int) -> Row:
        first, end = index * self.row_length, min((index + 1) * self.row_length, self.positions)
        targets = self.tokens[first + 1 : end + 1].astype(np.int64)
        inside = self.starts[np.searchsorted(self.starts, first, "right") : np.searchsorted(self.starts, end, "right")]
        targets[inside - first - 1] = IGNORED
        starts = np.concatenate([[0], inside[inside < end] - first])
        return Row(self.tokens[first:end].astype(np.int64), targets, starts)

    def lengths(self, indices: np.ndarray) -> np.ndarray:
        """The input tokens of some rows: all alike but the last."""
        return np.minimum(self.row_length, self.positions - np.asarray(indices) * self.row_length)

    def cut(self, row_length: int) -> "PackedRows":
        """The same stream in rows of another length."""
        return replace(self, row_length=row_length, made_from=self.made_from | {"row length": str(row_length)})

    def documents_of(self, index: int) -> tuple[str, ...]:
        """The names of the documents that a row holds something of."""
        first, last = index * self.row_length, min((index + 1) * self.row_length, self.positions) - 1
        return self.sources[np.searchsorted(self.starts, first, "right") - 1 : np.searchsorted(self.starts, last, "right")]

    @property
    def fingerprint(self) -> str:
        return "/".join(self.made_from.values())

    def save(self, path: str | Path) -> None:
        names = np.frombuffer("\0".join(self.sources[:]).encode(), dtype=np.uint8)
        arrays = {"tokens": self.tokens[:], "starts": self.starts, "sources": names}
        Artifact(kind=KIND, schema=SCHEMA, made_from=self.made_from, content={"row_length": self.row_length}, arrays=arrays).save(path)

    @classmethod
    def load(cls, path: str | Path, made_from: dict[str, str] | None = None) -> "PackedRows":
        """Read saved rows; raises `ArtifactError` when damaged, or made from other things than `made_from`."""
        artifact = Artifact.load(path, kind=KIND, schema=SCHEMA)
        artifact.require(made_from or {}, path)
        try:
            sources = tuple(artifact.arrays["sources"].tobytes().decode().split("\0"))
            return cls(artifact.arrays["tokens"], artifact.arrays["starts"], sources, artifact.content["row_length"], artifact.made_from)
        except KeyError as error:
            raise ArtifactError(f"{path} lacks {error}, which packed rows need; delete it and run the same command again.") from None


def made_from(documents: Sequence[Document], tokenizer: Tokenizer, row_length: int) -> dict[str, str]:
    """What determines the packed rows, known before they are made: pass it to `PackedRows.load`."""
    return {"documents": fingerprint(documents), "tokenizer": tokenizer.fingerprint, "row length": str(row_length)}


def closed(texts: Sequence[str], tokenizer: Tokenizer) -> Iterator[np.ndarray]:
    """The tokens of each text, uint16 where the vocabulary allows it, else uint32, with eos behind them."""
    dtype = np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32
    for first in range(0, len(texts), ENCODED_AT_ONCE):
        for ids in tokenizer.encode_batch(list(texts[first : first + ENCODED_AT_ONCE])):
            yield np.array(ids if ids[-1:] == [tokenizer.eos_id] else [*ids, tokenizer.eos_id], dtype=dtype)


def pack(documents: Sequence[Document], tokenizer: Tokenizer, row_length: int) -> PackedRows:
    """Tokenise documents and lay them end to end.

    >>> rows = pack(training, tokenizer, row_length=512)
    >>> print(rows)
    17,525 rows of 512 tokens, the last of 331; 8,970,974 targets in 1,646 documents

    Raises `DataError` when no document has a token, or rows are shorter than 2.
    """
    if row_length < 2:
        raise DataError(f"Rows must be at least 2 tokens long; got {row_length}.")
    if not documents:
        raise DataError("There are no documents to pack.")
    pieces = list(closed([document.text for document in documents], tokenizer))
    lengths = np.array([len(piece) for piece in pieces], dtype=np.int64)
    if lengths.min() < 2:
        raise DataError(f"The document {documents[int(lengths.argmin())].source} has no token; leave empty documents out.")
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    sources = tuple(document.source for document in documents)
    return PackedRows(np.concatenate(pieces), starts, sources, row_length, made_from(documents, tokenizer, row_length))
