"""What one process of a tensor group holds of a model: its layer configs, and its rows of every tensor, from the axes alone."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from amaru.axes import Selection, Selections
from amaru.axes.expression import Concat, Expression, Leaf, Product
from amaru.errors import ConfigError
from amaru.models.decoder import DecoderConfig
from amaru.models.source import PIECE, Source
from amaru.models.tensor_parallel import check, layer_of, selections, vocabulary

LINEAR_AFTER = (Leaf("hidden"), Leaf("latent"))  # what a sum over processes may be put off behind: nothing but products follows

Kept = tuple[np.ndarray | None, ...]  # for each dimension of a tensor which of its indices are held, ascending; None: all


@dataclass(frozen=True)
class Share:
    """`Share(config, rank=1, of=4).kept("layers.0.mixer.in_proj.weight")`: that process's rows, z, x, B, C and dt each in part.

    Raises `ConfigError` for a number of processes that does not divide a layer, naming layer, axis and size, and for a layer
    that sums over the divided axis before its end (Hymba's).
    """

    config: DecoderConfig
    rank: int
    of: int

    def __post_init__(self) -> None:
        if self.of > 1:
            _require_sums_at_the_end(self.config)
        check(self.config, self.of)
        if not len(vocabulary(self.config, self.of - 1, self.of)):
            raise ConfigError(f"Tensor parallelism over {self.of}: axis 'vocab' of the embedding has {self.config.vocab} indices, too few.")

    @property
    def layers(self) -> DecoderConfig:
        """The model with the layers that this process computes; the vocabulary is still that of the whole."""
        return replace(self.config, layers=tuple(layer_of(layer, self.of) for layer in self.config.layers))  # type: ignore[type-var]

    @property
    def vocabulary(self) -> range:
        return vocabulary(self.config, self.rank, self.of)

    def kept(self, name: str) -> Kept:
        """Which indices of each dimension of a parameter this process holds."""
        spec, axes = self._tensors[name]
        if self.of == 1:
            return (None,) * len(spec.layout.dimensions)
        return tuple(None if rows is None else rows.copy() for rows in spec.layout.surviving(axes, self._selections(name)))

    def shape(self, name: str) -> tuple[int, ...]:
        spec, axes = self._tensors[name]
        return tuple(size if kept is None else len(kept) for size, kept in zip(spec.layout.shape(axes), self.kept(name), strict=True))

    def divided(self, name: str) -> bool:
        """Whether other processes hold other rows; else every process has all of it."""
        return any(kept is not None for kept in self.kept(name))

    def partial(self, name: str, sliced: bool) -> bool:
        """Whether a process's gradient of what all of them hold is only its term: of a norm's weight where each has a slice of the
        tokens, and of an undivided weight inside a divided layer (a router, projections to and from latent experts)."""
        return not self.divided(name) and self.of > 1 and ((sliced and "norm." in name) or ".mixer." in name)

    def copies(self) -> bool:
        """Whether some process holds rows that another holds too: keys and values where there are more processes than KV heads."""
        return any("query" in selections(layer, 0, self.of) for layer in self.config.layers)

    @cached_property
    def _tensors(self) -> dict:
        return self.config.tensors()

    def _selections(self, name: str) -> Selections:
        if name.startswith("layers."):
            return selections(self.config.layers[int(name.split(".")[1])], self.rank, self.of)
        return {"vocab": Selection(np.array(self.vocabulary))}


def cut(tensor: Tensor, kept: Kept) -> Tensor:
    """The kept part of a tensor that is there as a whole."""
    for dimension, chosen in enumerate(kept):
        tensor = tensor if chosen is None else tensor.index_select(dimension, torch.from_numpy(chosen).to(tensor.device))
    return tensor


def read(source: Source, name: str, kept: Kept) -> Tensor:
    """The kept part of a tensor in its stored dtype; of a source that can read rows no others are read, a piece at a time."""
    spec, axes = source.config.tensors()[name]
    shape = spec.layout.shape(axes)
    rows = np.arange(shape[0]) if kept[0] is None else kept[0]
    inside = [torch.from_numpy(np.arange(size) if chosen is None else chosen) for size, chosen in zip(shape[1:], kept[1:], strict=True)]
    out = torch.empty(len(rows), *map(len, inside), dtype=source.dtype(name))
    place = 0
    for piece in _pieces(source, name, rows, torch.Size(shape[1:]).numel()):
        for dimension, chosen in enumerate(inside, start=1):
            piece = piece if len(chosen) == piece.shape[dimension] else piece.index_select(dimension, chosen)
        out[place : place + len(piece)] = piece
        place += len(piece)
    return out


def runs(indices: np.ndarray) -> Iterator[tuple[int, int]]:
    """`runs([2, 3, 7])` gives (2, 4) and (7, 8): what lies one after the other."""
    ends = np.flatnonzero(np.diff(indices) != 1) + 1
    for run in np.split(indices, ends):
        if len(run):
            yield int(run[0]), int(run[-1]) + 1


def _pieces(source: Source, name: str, rows: np.ndarray, width: int) -> Iterator[Tensor]:
    read_rows = getattr(source, "rows", None)
    if read_rows is None:
        yield source.read(name)[torch.from_numpy(rows)]
        return
    most = max(1, PIECE // max(1, width))
    for start, stop in runs(rows):
        for first in range(start, stop, most):
            yield read_rows(name, first, min(first + most, stop))


def _require_sums_at_the_end(config: DecoderConfig) -> None:
    for index, layer in enumerate(config.layers):
        divided = layer.sharded.split()
        for name, spec in layer.tensors().items():
            *rows, columns = spec.layout.dimensions
            if rows and _names(columns) & set(divided) and rows[-1] not in LINEAR_AFTER:
                raise ConfigError(
                    f"Layer {index} ({layer.kind}) cannot be divided among processes: its {name} sums over '{divided[0]}' in the middle "
                    "of the layer. Run this model in one process."
                )


def _names(expression: Expression) -> set[str]:
    match expression:
        case Leaf(axis):
            return {axis}
        case Product(factors):
            return set().union(*map(_names, factors))
        case Concat(_, parts):
            return set().union(*map(_names, parts))
