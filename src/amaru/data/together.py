"""The rows of several sources as one, each evenly spread over the whole, so that the first few are a fair sample of all."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from amaru.config import fingerprint_bytes
from amaru.data.order import spread
from amaru.data.packing import Row, Rows
from amaru.errors import DataError


@dataclass(frozen=True)
class Together:
    """`Together([web, code])`: each row of each source once. Raises `DataError` unless all have one row length."""

    parts: Sequence[Rows]

    def __post_init__(self) -> None:
        if len(lengths := {part.row_length for part in self.parts}) != 1:
            raise DataError(f"Rows of different lengths are not read as one; got {sorted(lengths)}.")

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    @property
    def row_length(self) -> int:
        return self.parts[0].row_length

    @property
    def positions(self) -> int:
        return sum(part.positions for part in self.parts)

    @property
    def targets(self) -> int:
        return sum(part.targets for part in self.parts)

    @property
    def fingerprint(self) -> str:
        return fingerprint_bytes(*(part.fingerprint for part in self.parts))

    def row(self, index: int) -> Row:
        part, within = self._place(index)
        return part.row(within)

    def lengths(self, indices: np.ndarray) -> np.ndarray:
        placed = [self._place(index) for index in np.asarray(indices).tolist()]
        return np.array([int(part.lengths(np.array([within]))[0]) for part, within in placed], dtype=np.int64)

    def documents_of(self, index: int) -> tuple[str, ...]:
        part, within = self._place(index)
        return part.documents_of(within)

    def _place(self, index: int) -> tuple[Rows, int]:
        givers, ranks = self._mixture
        return self.parts[int(givers[index])], int(ranks[index])

    @cached_property
    def _mixture(self) -> tuple[np.ndarray, np.ndarray]:
        return spread(tuple(len(part) for part in self.parts), (0,))
