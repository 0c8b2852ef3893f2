"""The order of rows in another format: its tensors are other expressions over the same axes, and the rest follows.

ours = parse("q: kv_group query channel | k: kv_group channel | v: kv_group channel")       # three tensors, one after the other
theirs = parse("kv_group (q: query channel | k: channel | v: channel)")                     # fused, as Megatron has them
theirs_rows = ours_rows[repack(ours, theirs, axes)]
ours_rows = theirs_rows[repack(theirs, ours, axes)]
"""

import numpy as np

from amaru.axes.axis import Axes
from amaru.axes.expression import Concat, Expression, Leaf, Product, size

# For each named part ("" where nothing is named): the axes of its rows, outermost first, and the row number at every index of them.
Parts = dict[str, tuple[tuple[str, ...], np.ndarray]]


def repack(source: Expression, target: Expression, axes: Axes) -> np.ndarray:
    """Row numbers of `source` [rows of target], in the order of `target`: both speak of the same parts and axes.

        repack(parse("half pair"), parse("pair half"), axes)    # rotary channels stored pair by pair
        repack(parse("z: a | x: b c"), parse("x: c b"), axes)   # one part of several, in another order

    `target` may leave out parts that `source` has. Raises `ValueError` when it has a part that `source` has not, or one
    made of other axes (a mistake in our own declarations).
    """
    have = row_numbers(source, axes)
    rows = np.empty(size(target, axes), dtype=np.int64)
    for name, (order, places) in row_numbers(target, axes).items():
        if name not in have:
            raise ValueError(f"'{source}' has no part '{name}'")
        found, numbers = have[name]
        if sorted(found) != sorted(order):
            raise ValueError(f"'{source}' and '{target}' differ in the axes of part '{name}'")
        rows[places] = numbers.transpose([found.index(axis) for axis in order])
    return rows


def part_rows(expression: Expression, name: str, axes: Axes) -> np.ndarray:
    """The rows [rows of the part] that one named part has anywhere inside an expression, a product or not."""
    return row_numbers(expression, axes)[name][1].reshape(-1)


def row_numbers(expression: Expression, axes: Axes) -> Parts:
    """Where every part of the expression lies; a part inside a product repeats under each index of what stands before it."""
    match expression:
        case Leaf(axis):
            return {"": ((axis,), np.arange(axes[axis].size))}
        case Concat(names, parts):
            return _beside(names, parts, axes)
        case Product((first, *rest)):
            return _under(first, Product(tuple(rest)), axes) if rest else row_numbers(first, axes)
    raise AssertionError(f"unreachable: {expression}")


def _beside(names: tuple[str, ...], parts: tuple[Expression, ...], axes: Axes) -> Parts:
    found: Parts = {}
    start = 0
    for name, part in zip(names, parts, strict=True):
        for inner, (order, rows) in row_numbers(part, axes).items():
            found[f"{name}.{inner}" if inner else name] = (order, rows + start)
        start += size(part, axes)
    return found


def _under(first: Expression, rest: Expression, axes: Axes) -> Parts:
    width = size(rest, axes)
    found: Parts = {}
    for outer, (before, starts) in row_numbers(first, axes).items():
        for inner, (after, rows) in row_numbers(rest, axes).items():
            name = ".".join(part for part in (outer, inner) if part)
            found[name] = (before + after, np.add.outer(starts * width, rows))
    return found
