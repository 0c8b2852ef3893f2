"""One description of every tensor: what each of its dimensions is made of, and what follows from that.

Lives here: axes, dimension expressions, selections, the rows that survive them, and the order that rows have in another
format. Not here: tensors themselves (they are sliced in `compress.surgery`). Imports numpy and nothing of amaru but errors.
"""

from amaru.axes.axis import Axes, Axis
from amaru.axes.expression import Expression, parse, part, size
from amaru.axes.layout import Layout, TensorSpec
from amaru.axes.repack import part_rows, repack
from amaru.axes.selection import Selection, Selections, keep, keep_by_position, recheck, shard
from amaru.axes.surviving import surviving_rows

__all__ = [
    "Axes",
    "Axis",
    "Expression",
    "Layout",
    "Selection",
    "Selections",
    "TensorSpec",
    "keep",
    "keep_by_position",
    "parse",
    "part",
    "part_rows",
    "recheck",
    "repack",
    "shard",
    "size",
    "surviving_rows",
]
