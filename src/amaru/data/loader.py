"""Training batches as a pure function of (rows, seed, step), so that a run resumes from the step number alone."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from amaru.config import fingerprint_bytes
from amaru.data.order import share, tokens_visited, visit
from amaru.data.packing import IGNORED, Rows
from amaru.errors import DataError


@dataclass(frozen=True)
class TrainingBatch:
    """Rows laid end to end on one token axis, without padding.

    `ids`, `targets`, `positions` int64 [T]; targets are `IGNORED` where a document ends; positions count from 0 in
    each piece of a document; `cu_seqlens` int64 [pieces + 1], boundaries that no layer crosses. `rows` and
    `documents` say what it is made of, `epoch` which pass over the data its first row belongs to.
    """

    ids: Tensor
    targets: Tensor
    positions: Tensor
    cu_seqlens: Tensor
    rows: tuple[int, ...]
    documents: tuple[str, ...]
    epoch: int

    @property
    def counted(self) -> Tensor:
        """bool [T]: which tokens have a target."""
        return self.targets != IGNORED

    @property
    def target_tokens(self) -> int:
        return int(self.counted.sum())

    def to(self, device: torch.device | str) -> "TrainingBatch":
        """All but the boundaries, which are read on the CPU."""
        return replace(self, **{name: getattr(self, name).to(device) for name in ("ids", "targets", "positions")})


@dataclass(frozen=True)
class Phase:
    """A stretch of the run, steps `first` to `end - 1` (`end` None: for ever), in which batches are made alike.

    `weights` are the shares of tokens that each source gives; they sum to 1.
    """

    name: str
    first: int
    end: int | None
    row_length: int
    batch_rows: int
    weights: Mapping[str, float]


@dataclass(frozen=True)
class Drawn:
    """What a run took from one source: `tokens` exactly, and `epochs`, how often that is the whole source."""

    source: str
    rows: int
    tokens: int
    epochs: float


class Batches(Protocol):
    """What a training loop draws from: batches that are a function of the step, so that a run resumes from its number alone.

    `Loader` gives them from one source for ever, `Blend` from several, in phases. `steps` is how many there are (None: no end),
    `fingerprint` a hash of everything that decides them: texts, order, sizes, seed.
    """

    @property
    def seed(self) -> int: ...

    @property
    def steps(self) -> int | None: ...

    @property
    def fingerprint(self) -> str: ...

    def batch(self, step: int, part: int = 0, parts: int = 1) -> TrainingBatch:
        """The batch of step 0, 1, 2, ..., or one of `parts` equal shares of its rows.

        With `n` micro-batches in each of `q` processes, micro-batch i of process p is part `p * n + i` of `n * q`. Targets are
        not equally many in each, so a mean over the step is the sum over parts divided by the targets of all of them.
        Raises `DataError` when the rows of the step do not divide.
        """
        ...

    def phase(self, step: int) -> Phase:
        """The phase that a step belongs to; rows and their length change between phases only."""
        ...

    def drawn(self, steps: int) -> tuple[Drawn, ...]:
        """What the first `steps` batches take from each source."""
        ...


@dataclass(frozen=True)
class Loader:
    """Shuffled batches of one source, for ever.

    >>> loader = Loader(rows, batch_rows=16, seed=0)
    >>> loader.batch(step=1000).ids.shape
    torch.Size([8192])

    Each epoch visits every row exactly once in an order drawn from (seed, epoch). Where an epoch ends inside a
    batch, the batch goes on with the first rows of the next.
    """

    rows: Rows
    batch_rows: int
    seed: int
    source: str = "text"

    def __post_init__(self) -> None:
        if self.batch_rows < 1 or self.seed < 0:
            raise DataError(f"A batch has at least 1 row, and a seed is not negative; got {self.batch_rows} and {self.seed}.")

    @property
    def steps(self) -> None:
        """There is no end."""

    @property
    def fingerprint(self) -> str:
        return fingerprint_bytes(self.rows.fingerprint, str(self.batch_rows), str(self.seed))

    def batch(self, step: int, part: int = 0, parts: int = 1) -> TrainingBatch:
        """The batch of step 0, 1, 2, ..., or one of `parts` equal shares of its rows."""
        places = share(range(step * self.batch_rows, (step + 1) * self.batch_rows), part, parts)
        chosen = [visit(self.rows, (self.seed,), place) for place in places]
        return collate(self.rows, chosen, epoch=places[0] // len(self.rows))

    def phase(self, step: int) -> Phase:
        return Phase("all", 0, None, self.rows.row_length, self.batch_rows, {self.source: 1.0})

    def drawn(self, steps: int) -> tuple[Drawn, ...]:
        count = steps * self.batch_rows
        tokens = tokens_visited(self.rows, (self.seed,), count)
        return (Drawn(self.source, count, tokens, tokens / self.rows.positions),)


def in_order(rows: Rows, batch_rows: int, limit: int | None = None) -> Iterator[TrainingBatch]:
    """Each row once, first to last (the first `limit` rows where given), for validation and calibration."""
    count = len(rows) if limit is None else min(limit, len(rows))
    for first in range(0, count, batch_rows):
        yield collate(rows, range(first, min(first + batch_rows, count)))


def collate(rows: Rows, indices: Sequence[int], *, epoch: int = 0) -> TrainingBatch:
    """Put rows end to end."""
    return join([(rows, index) for index in indices], epoch=epoch)


def join(chosen: Sequence[tuple[Rows, int]], *, epoch: int = 0) -> TrainingBatch:
    """Put rows of any sources end to end: (source, number of the row) each."""
    parts = [rows.row(index) for rows, index in chosen]
    offsets = np.cumsum([0, *(len(part.ids) for part in parts)])
    boundaries = np.concatenate([*(part.starts + offset for part, offset in zip(parts, offsets[:-1], strict=True)), offsets[-1:]])
    positions = np.arange(offsets[-1]) - np.repeat(boundaries[:-1], np.diff(boundaries))
    return TrainingBatch(
        ids=torch.from_numpy(np.concatenate([part.ids for part in parts])),
        targets=torch.from_numpy(np.concatenate([part.targets for part in parts])),
        positions=torch.from_numpy(positions),
        cu_seqlens=torch.from_numpy(boundaries),
        rows=tuple(index for _, index in chosen),
        documents=tuple(dict.fromkeys(name for rows, index in chosen for name in rows.documents_of(index))),
        epoch=epoch,
    )
