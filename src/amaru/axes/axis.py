"""An axis: a named set of indices, the set it hangs under, and how far its name reaches."""

from dataclasses import dataclass
from typing import Literal

Scope = Literal["layer", "network"]


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A named set of indices.

        Axis(name="head", size=16, parents=("group",))        # 16 heads in each group

    `size` counts the indices under one parent index. `parents` are declared, not inferred from the order of
    rows: a selection may keep other indices under each of them, but always equally many. `scope` is the reach
    of one selection: every layer chooses its own ("layer"), or all tensors of the network share one ("network").
    `fixed` axes keep their order and size (convolution taps); the others may be permuted under their parents
    without changing the function, which a test proves for every layer. At least `least` indices are kept of a free one.
    """

    name: str
    size: int
    parents: tuple[str, ...] = ()
    scope: Scope = "layer"
    fixed: bool = False
    least: int = 1


Axes = dict[str, Axis]
