"""The sum of the residual stream and what a layer adds to it, or of two heads that are averaged."""

import torch
from torch import Tensor

from amaru.ops.add import native
from amaru.ops.backends import Backend, Op
from amaru.ops.native import lacks


def add(x: Tensor, y: Tensor, scale: float = 1.0) -> Tensor:
    """(x + y) * scale, of one shape and dtype, rounded as torch rounds each; a few tokens by a kernel that a program may hold.

    >>> add(x, layer(norm(x)))      # x [T, hidden]

    Raises `BackendError` if a forced backend refuses.
    """
    if ADD.lean and native.refuses(x, y, scale) is None:
        return native.add(x, y, scale)
    return ADD(x, y, scale)


def eager(x: Tensor, y: Tensor, scale: float = 1.0) -> Tensor:
    return x + y if scale == 1.0 else (x + y) * scale


def _sample(dtype: torch.dtype) -> tuple[tuple, dict]:
    return (torch.zeros(2, 8, dtype=dtype), torch.ones(2, 8, dtype=dtype)), {}


ADD = Op("add", _sample, Backend("native", native.add, native.refuses, lacks), Backend("eager", eager))
