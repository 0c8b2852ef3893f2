"""Which indices of an axis are kept: one list shared by all parents, or one of equal length for each parent index."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from amaru.axes.axis import Axes, Axis
from amaru.errors import ConfigError


@dataclass(frozen=True, eq=False)
class Selection:
    """Kept indices of one axis, in the order they will have.

    `indices` is [kept] when all parents share the list, or [*parent sizes, kept]. A permutation is a selection
    that keeps everything; a tensor-parallel shard is one that keeps a range.

    With `misplaced` an index may lie under another parent than the one it is put under (`keep_by_position` says how): an
    experiment that breaks what the axes promise.
    """

    indices: np.ndarray
    misplaced: bool = False

    @property
    def kept(self) -> int:
        return self.indices.shape[-1]


Selections = dict[str, Selection]


def keep(axis: Axis, indices: object, axes: Axes) -> Selection:
    """`keep(axes["head"], [[3, 0], [1, 2]], axes)`: a checked selection.

    Raises `ConfigError` for an empty list, an index outside the axis, one kept twice, lists that differ in
    length, or a fixed axis.
    """
    try:
        array = np.asarray(indices, dtype=np.int64)
    except (ValueError, TypeError):
        raise ConfigError(f"Each parent of axis '{axis.name}' must keep equally many indices.") from None
    parents = tuple(axes[parent].size for parent in axis.parents)
    if array.shape[:-1] not in ((), parents) or array.ndim == 0:
        raise ConfigError(
            f"A selection of axis '{axis.name}' has shape [kept] or [{', '.join(map(str, parents))}, kept]; got {list(array.shape)}."
        )
    if array.shape[-1] < axis.least:
        least = f"at least {'one' if axis.least == 1 else axis.least} of its {axis.size} indices"
        raise ConfigError(f"A selection of axis '{axis.name}' must keep {least}; got {array.shape[-1]}.")
    if array.min() < 0 or array.max() >= axis.size:
        raise ConfigError(f"Axis '{axis.name}' has indices 0 to {axis.size - 1}; a selection names {array.min()} to {array.max()}.")
    ordered = np.sort(array, axis=-1)
    if (ordered[..., 1:] == ordered[..., :-1]).any():
        raise ConfigError(f"A selection of axis '{axis.name}' keeps an index twice.")
    if axis.fixed and not np.array_equal(array, np.arange(axis.size)):
        raise ConfigError(f"Axis '{axis.name}' is fixed: its indices can be neither dropped nor reordered.")
    return Selection(array)


def keep_by_position(axis: Axis, indices: Sequence[int], axes: Axes) -> Selection:
    """`keep_by_position(axes["head"], [0, 1, 2, 5], axes)`: what a tool does that has not heard of groups.

    `indices` are counted through all parents, as the rows of a tensor lie: of 2 groups of 3 heads the third and the sixth are 2 and 5.
    The first of them fill the first parent, the next the second, and so on: here head 2 of group 0 comes to stand in group 1, whose B and
    C it was never trained with. For experiments only. Raises `ConfigError` when the parents cannot have equally many.
    """
    parents = [axes[parent].size for parent in axis.parents]
    flat, places = np.asarray(indices, dtype=np.int64), int(np.prod(parents))
    if len(flat) == 0 or len(flat) % places or len(np.unique(flat)) < len(flat) or flat.min() < 0 or flat.max() >= places * axis.size:
        raise ConfigError(
            f"Of the {places * axis.size} indices of axis '{axis.name}' some multiple of {places} is kept, each once; got {len(flat)}."
        )
    starts = np.arange(places)[:, None] * axis.size
    return Selection((flat.reshape(places, -1) - starts).reshape(*parents, -1), misplaced=True)


def recheck(selection: Selection, axis: Axis, axes: Axes) -> None:
    """Raise `ConfigError` unless `keep` or `keep_by_position` could have made this selection of this axis."""
    if not selection.misplaced:
        keep(axis, selection.indices, axes)
        return
    parents = [axes[parent].size for parent in axis.parents]
    starts = np.arange(int(np.prod(parents))).reshape(*parents, 1) * axis.size
    keep_by_position(axis, (selection.indices + starts).ravel().tolist(), axes)


def shard(axis: Axis, rank: int, of: int) -> Selection:
    """The contiguous range of `axis` that process `rank` of `of` holds; raises `ConfigError` when it does not divide."""
    if axis.size % of:
        raise ConfigError(f"Axis '{axis.name}' has {axis.size} indices, which {of} processes cannot share evenly.")
    width = axis.size // of
    return Selection(np.arange(rank * width, (rank + 1) * width))
