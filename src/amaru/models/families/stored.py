"""Which tensor of a checkpoint file holds which of ours."""

from typing import NamedTuple


class Stored(NamedTuple):
    """`Stored("backbone.layers.0.norm.weight", "layers.0.norm.weight")`: one tensor of a file.

    It is the whole of our tensor `ours`, or entry `index` of its first dimension (one expert of many).
    """

    name: str
    ours: str
    index: int | None = None
