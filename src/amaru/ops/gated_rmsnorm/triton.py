"""The gated norm on a CUDA GPU: one pass each way (triton/norm.py)."""

from torch import Tensor

from amaru.ops.native import short
from amaru.ops.triton import refusal
from amaru.ops.triton.norms import WIDEST, norm


def refuses(y: Tensor, z: Tensor, weight: Tensor, *, groups: int, eps: float) -> str | None:
    if y.dtype != z.dtype:
        return f"needs y and z of one dtype, got {short(y.dtype)} and {short(z.dtype)}"
    return f"serves groups of up to {WIDEST} columns" if len(weight) > groups * WIDEST else refusal(y, z, weight)


def gated_rmsnorm(y: Tensor, z: Tensor, weight: Tensor, *, groups: int, eps: float) -> Tensor:
    return norm(y, z, weight, groups, eps)
