"""A layout: one expression per dimension of a tensor, and what can be read off it."""

from dataclasses import dataclass

import numpy as np

from amaru.axes.axis import Axes
from amaru.axes.expression import Expression, names, parse, size
from amaru.axes.selection import Selections
from amaru.axes.surviving import surviving_rows


@dataclass(frozen=True)
class Layout:
    """`Layout.of("group head channel", "hidden")`: a matrix with these rows and columns."""

    dimensions: tuple[Expression, ...]

    @classmethod
    def of(cls, *dimensions: str) -> "Layout":
        return cls(tuple(parse(text) for text in dimensions))

    def shape(self, axes: Axes) -> tuple[int, ...]:
        return tuple(size(dimension, axes) for dimension in self.dimensions)

    def numel(self, axes: Axes) -> int:
        return int(np.prod(self.shape(axes), dtype=object))

    def surviving(self, axes: Axes, selections: Selections) -> tuple[np.ndarray | None, ...]:
        """For each dimension the rows that survive, or None where all stay as they are."""
        rows = (surviving_rows(dimension, axes, selections) for dimension in self.dimensions)
        return tuple(None if np.array_equal(kept, np.arange(n)) else kept for kept, n in zip(rows, self.shape(axes), strict=True))

    @property
    def axes(self) -> set[str]:
        """The axes that the tensor is made of."""
        return set().union(*map(names, self.dimensions))

    def __str__(self) -> str:
        return " ".join(f"[{dimension}]" for dimension in self.dimensions)


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of a layer: its layout, and whether it stays in fp32 whatever the weights are stored in."""

    layout: Layout
    keep_fp32: bool = False
