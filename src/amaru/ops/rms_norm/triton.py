"""The norm on a CUDA GPU: one pass each way (triton/norm.py)."""

from torch import Tensor

from amaru.ops.triton import refusal
from amaru.ops.triton.norms import WIDEST, norm


def refuses(x: Tensor, weight: Tensor, *, eps: float) -> str | None:
    return f"serves up to {WIDEST} columns, got {len(weight)}" if len(weight) > WIDEST else refusal(x, weight)


def rms_norm(x: Tensor, weight: Tensor, *, eps: float) -> Tensor:
    return norm(x.reshape(-1, x.shape[-1]), None, weight, 1, eps).view(x.shape)
