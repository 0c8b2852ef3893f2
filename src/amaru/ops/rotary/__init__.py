"""Pairs of channels turn by given angles."""

import torch
from torch import Tensor

from amaru.ops.backends import Backend, Op
from amaru.ops.native import lacks
from amaru.ops.rotary import eager, native, triton
from amaru.ops.triton import lacks as lacks_triton


def rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [T, heads, channels] with channel i and i + n turned by the i-th of n angles, cos and sin [T, n]; what lies behind stays.

    >>> q = rotary(q, *rope.turns(positions, channels))

    In the dtype of cos, then cast back. Raises `BackendError` if a forced backend refuses.
    """
    if ROTARY.lean and native.refuses(x, cos, sin) is None:
        return native.rotary(x, cos, sin)
    return ROTARY(x, cos, sin)


def _sample(dtype: torch.dtype) -> tuple[tuple, dict]:
    return (torch.zeros(1, 2, 8, dtype=dtype), torch.ones(1, 4), torch.zeros(1, 4)), {}


ROTARY = Op(
    "rotary",
    _sample,
    Backend("native", native.rotary, native.refuses, lacks),
    Backend("triton", triton.rotary, triton.refuses, lacks_triton),
    Backend("eager", eager.rotary),
)
