"""Which indices of an axis are kept: one list shared by all parents, or one of equal length for each parent index."""

from dataclasses import dataclass

import numpy as np

from amaru.axes.axis import Axes, Axis
from amaru.errors import ConfigError


@dataclass(frozen=True, eq=False)
class Selection:
    """Kept indices of one axis, in the order they will have.

    `indices` is [kept] when all parents share the list, or [*parent sizes, kept]. A permutation is a selection
    that keeps everything; a tensor-parallel shard is one that keeps a range.
    """

    indices: np.ndarray

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
    if array.shape[-1] == 0:
        raise ConfigError(f"A selection of axis '{axis.name}' must keep at least one of its {axis.size} indices.")
    if array.min() < 0 or array.max() >= axis.size:
        raise ConfigError(f"Axis '{axis.name}' has indices 0 to {axis.size - 1}; a selection names {array.min()} to {array.max()}.")
    ordered = np.sort(array, axis=-1)
    if (ordered[..., 1:] == ordered[..., :-1]).any():
        raise ConfigError(f"A selection of axis '{axis.name}' keeps an index twice.")
    if axis.fixed and not np.array_equal(array, np.arange(axis.size)):
        raise ConfigError(f"Axis '{axis.name}' is fixed: its indices can be neither dropped nor reordered.")
    return Selection(array)


def shard(axis: Axis, rank: int, of: int) -> Selection:
    """The contiguous range of `axis` that process `rank` of `of` holds; raises `ConfigError` when it does not divide."""
    if axis.size % of:
        raise ConfigError(f"Axis '{axis.name}' has {axis.size} indices, which {of} processes cannot share evenly.")
    width = axis.size // of
    return Selection(np.arange(rank * width, (rank + 1) * width))
