"""Functions of single numbers. torch's own give some the last bit by where in a tensor they stand, which `exact()` rules out.

Sums, products, quotients and exponentials are free of that, and these can be put together from them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from amaru.ops.arguments import at_least_fp32
from amaru.ops.exactness import is_exact

LINEAR_FROM = 20.0  # where softplus(x) is x to float32, as torch has it


def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + exp(-x)) in at least float32, cast back to x's dtype."""
    return x.sigmoid() if not is_exact() else (1 / _divisor(x)).to(x.dtype)


def silu(x: Tensor) -> Tensor:
    """x / (1 + exp(-x)) in at least float32, cast back to x's dtype."""
    return F.silu(x) if not is_exact() else (x / _divisor(x)).to(x.dtype)


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)) in at least float32, cast back to x's dtype."""
    if not is_exact():
        return F.softplus(x)
    wide = x.to(at_least_fp32(x.dtype))
    return torch.where(wide > LINEAR_FROM, wide, wide.clamp(max=LINEAR_FROM).exp().log1p()).to(x.dtype)


def _divisor(x: Tensor) -> Tensor:
    return 1 + (-x.to(at_least_fp32(x.dtype))).exp()
