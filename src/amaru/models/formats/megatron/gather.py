"""Rows of several tensors seen as one, each read only as far as it is needed."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from amaru.errors import CheckpointError


class Readable(NamedTuple):
    """A tensor of `count` rows, of which `read(start, stop)` gives some."""

    count: int
    read: Callable[[int, int], Tensor]


def gather(tensors: Iterable[Readable], rows: np.ndarray) -> Tensor:
    """[len(rows), ...]: these rows of the tensors one after the other, in this order; rows that lie together are read together."""
    gathered: Tensor | None = None
    start = 0
    for tensor in tensors:
        inside = np.flatnonzero((rows >= start) & (rows < start + tensor.count))
        if len(inside):
            taken = _taken(tensor, rows[inside] - start)
            if len(inside) == len(rows):
                return taken
            gathered = taken.new_empty(len(rows), *taken.shape[1:]) if gathered is None else gathered
            if gathered.dtype != taken.dtype:
                raise CheckpointError(f"Parts of one tensor are stored as {gathered.dtype} and {taken.dtype}; ask for one dtype for all.")
            gathered[_index(inside)] = taken
        start += tensor.count
    assert gathered is not None, "no rows were asked for"
    return gathered


def _taken(tensor: Readable, rows: np.ndarray) -> Tensor:
    low, high = int(rows.min()), int(rows.max()) + 1
    held = tensor.read(low, high)
    return held if np.array_equal(rows, np.arange(low, high)) else held[_index(rows - low)]


def _index(rows: np.ndarray) -> Tensor | slice:
    low, high = int(rows[0]), int(rows[-1]) + 1
    return slice(low, high) if np.array_equal(rows, np.arange(low, high)) else torch.from_numpy(rows)
