"""Tensors of a distributed checkpoint: in chunks of any grid, put together as they are asked for."""

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from amaru.errors import CheckpointError

Box = tuple[tuple[int, int], ...]
"""From where to where, in each dimension."""


class Chunk(NamedTuple):
    """One rank's part of a tensor, and the bytes that hold it."""

    box: Box
    file: str
    start: int
    length: int


class Chunked(NamedTuple):
    """A tensor of the checkpoint: its whole shape, and its chunks."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    chunks: tuple[Chunk, ...]

    @property
    def whole(self) -> bool:
        """Whether the chunks are as large as the tensor; that they do not overlap is seen when it is read."""
        return sum(volume(chunk.box) for chunk in self.chunks) == math.prod(self.shape)


class ChunkedTensors(ABC):
    """Tensors by name, of which some rows can be read; a format adds where they lie. `path` is what to call it in a sentence."""

    path: Path
    tensors: Mapping[str, Chunked]

    @abstractmethod
    def part(self, name: str, chunk: Chunk, wanted: Box) -> Tensor:
        """What a chunk has of a box that lies inside it."""

    def rows(self, name: str, start: int, stop: int, layer: int | None = None) -> Tensor:
        """Some rows of a tensor, or of entry `layer` of its first dimension; nothing else is read."""
        lead: Box = () if layer is None else ((layer, layer + 1),)
        _, *columns = self.tensors[name].shape[len(lead) :]
        return self._box(name, (*lead, (start, stop), *((0, size) for size in columns))).reshape(stop - start, *columns)

    def _box(self, name: str, box: Box) -> Tensor:
        tensor = self.tensors[name]
        found = [(chunk, shared) for chunk in tensor.chunks if (shared := common(chunk.box, box)) is not None]
        overlap = any(common(one, other) is not None for (_, one), (_, other) in itertools.combinations(found, 2))
        if overlap or sum(volume(shared) for _, shared in found) != volume(box):
            raise CheckpointError(f"{self.path}: the chunks of {name} do not make up the whole of it, each place once.")
        if len(found) == 1:
            return self.part(name, *found[0])
        whole = torch.empty([stop - start for start, stop in box], dtype=tensor.dtype)
        for chunk, shared in found:
            whole[within(shared, box)] = self.part(name, chunk, shared)
        return whole


def common(one: Box, other: Box) -> Box | None:
    """Where two boxes overlap; None where they do not."""
    common = tuple((max(a, c), min(b, d)) for (a, b), (c, d) in zip(one, other, strict=True))
    return common if all(start < stop for start, stop in common) else None


def within(inner: Box, outer: Box) -> tuple[slice, ...]:
    return tuple(slice(a - c, b - c) for (a, b), (c, _) in zip(inner, outer, strict=True))


def volume(box: Box) -> int:
    return math.prod(stop - start for start, stop in box)
