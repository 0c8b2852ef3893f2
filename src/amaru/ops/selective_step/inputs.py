"""What the tokens of a Mamba-1 layer bring to its step."""

from typing import NamedTuple

from torch import Tensor


class Inputs(NamedTuple):
    """x, dt and gate [T, inner], B and C [T, state], of one dtype."""

    x: Tensor
    dt: Tensor
    B: Tensor
    C: Tensor
    gate: Tensor
