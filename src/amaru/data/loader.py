"""Training batches as a pure function of (rows, seed, step), so that a run resumes from the step number alone."""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from amaru.data.packing import IGNORED, PackedRows
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
    def target_tokens(self) -> int:
        return int((self.targets != IGNORED).sum())

    def to(self, device: torch.device | str) -> "TrainingBatch":
        moved = {name: getattr(self, name).to(device) for name in ("ids", "targets", "positions", "cu_seqlens")}
        return replace(self, **moved)


@dataclass(frozen=True)
class Loader:
    """Shuffled batches for ever.

    >>> loader = Loader(rows, batch_rows=16, seed=0)
    >>> loader.batch(step=1000).ids.shape
    torch.Size([8192])

    Each epoch visits every row exactly once in an order drawn from (seed, epoch). Where an epoch ends inside a
    batch, the batch goes on with the first rows of the next.
    """

    rows: PackedRows
    batch_rows: int
    seed: int

    def __post_init__(self) -> None:
        if self.batch_rows < 1 or self.seed < 0:
            raise DataError(f"A batch has at least 1 row, and a seed is not negative; got {self.batch_rows} and {self.seed}.")

    def batch(self, step: int) -> TrainingBatch:
        """The batch of step 0, 1, 2, ..."""
        places = range(step * self.batch_rows, (step + 1) * self.batch_rows)
        epochs = [divmod(place, len(self.rows)) for place in places]
        indices = [int(_order(len(self.rows), self.seed, epoch)[place]) for epoch, place in epochs]
        return collate(self.rows, indices, epoch=epochs[0][0])


def in_order(rows: PackedRows, batch_rows: int, limit: int | None = None) -> Iterator[TrainingBatch]:
    """Each row once, first to last (the first `limit` rows where given), for validation and calibration."""
    count = len(rows) if limit is None else min(limit, len(rows))
    for first in range(0, count, batch_rows):
        yield collate(rows, range(first, min(first + batch_rows, count)))


def collate(rows: PackedRows, indices: Sequence[int], *, epoch: int = 0) -> TrainingBatch:
    """Put rows end to end."""
    parts = [rows.row(index) for index in indices]
    offsets = np.cumsum([0, *(len(part.ids) for part in parts)])
    boundaries = np.concatenate([*(part.starts + offset for part, offset in zip(parts, offsets[:-1], strict=True)), offsets[-1:]])
    positions = np.arange(offsets[-1]) - np.repeat(boundaries[:-1], np.diff(boundaries))
    return TrainingBatch(
        ids=torch.from_numpy(np.concatenate([part.ids for part in parts])),
        targets=torch.from_numpy(np.concatenate([part.targets for part in parts])),
        positions=torch.from_numpy(positions),
        cu_seqlens=torch.from_numpy(boundaries),
        rows=tuple(indices),
        documents=tuple(dict.fromkeys(name for index in indices for name in rows.documents_of(index))),
        epoch=epoch,
    )


@functools.lru_cache(maxsize=4)
def _order(rows: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(rows)
