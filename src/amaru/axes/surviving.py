"""The rows of a dimension that survive a selection: the one place where a layout turns into indices."""

import numpy as np

from amaru.axes.axis import Axes
from amaru.axes.expression import Concat, Expression, Leaf, Product, size
from amaru.axes.selection import Selections


def surviving_rows(expression: Expression, axes: Axes, selections: Selections) -> np.ndarray:
    """Flat row numbers [kept], in their new order.

    surviving_rows(parse("group head"), axes, {"head": keep(axes["head"], [[1], [0]], axes)})   # array([1, 2])
    """
    return _rows(expression, axes, selections, {}, 1)[0]


def _rows(expression: Expression, axes: Axes, selections: Selections, outer: dict[str, np.ndarray], count: int) -> np.ndarray:
    """Surviving rows [count, kept] of an expression that stands under `count` combinations of outer indices.

    `outer` maps each axis already fixed further out to its original index in each combination [count].
    """
    match expression:
        case Leaf(name):
            return _leaf(name, axes, selections, outer, count)
        case Concat(_, parts):
            offsets = np.cumsum([0] + [size(part, axes) for part in parts])
            return np.concatenate(
                [_rows(part, axes, selections, outer, count) + offset for part, offset in zip(parts, offsets[:-1], strict=True)], axis=1
            )
        case Product((first, *rest)):
            rows = _rows(first, axes, selections, outer, count)
            if not rest:
                return rows
            kept = rows.shape[1]
            inner_outer = {name: np.repeat(indices, kept) for name, indices in outer.items()}
            if isinstance(first, Leaf):
                inner_outer[first.axis] = rows.reshape(-1)
            inner = Product(tuple(rest))
            below = _rows(inner, axes, selections, inner_outer, count * kept)
            return (rows.reshape(-1, 1) * size(inner, axes) + below).reshape(count, -1)
    raise AssertionError(f"unreachable: {expression}")


def _leaf(name: str, axes: Axes, selections: Selections, outer: dict[str, np.ndarray], count: int) -> np.ndarray:
    if name not in selections:
        return np.broadcast_to(np.arange(axes[name].size), (count, axes[name].size))
    indices = selections[name].indices
    if indices.ndim == 1:
        return np.broadcast_to(indices, (count, len(indices)))
    return indices[tuple(outer[parent] for parent in axes[name].parents)]
