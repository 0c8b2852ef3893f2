"""The norm in front of every layer."""

import torch
from torch import Tensor

from amaru.ops.arguments import expect_shape
from amaru.ops.backends import Backend, Op
from amaru.ops.native import lacks
from amaru.ops.rms_norm import eager, native, triton
from amaru.ops.triton import lacks as lacks_triton


def rms_norm(x: Tensor, weight: Tensor, *, eps: float) -> Tensor:
    """x / sqrt(mean(x²) + eps) * weight over the last axis, in at least float32, then cast back to x's dtype.

    >>> rms_norm(x, weight, eps=1e-5)      # x [..., width], weight [width]

    Raises `ConfigError` for shapes that do not fit, `BackendError` if a forced backend refuses.
    """
    expect_shape("weight", weight, x.shape[-1])
    if RMS_NORM.lean and native.refuses(x, weight, eps=eps) is None:
        return native.rms_norm(x, weight, eps=eps)
    return RMS_NORM(x, weight, eps=eps)


def _sample(dtype: torch.dtype) -> tuple[tuple, dict]:
    return (torch.zeros(2, 8, dtype=dtype), torch.ones(8)), {"eps": 1e-5}


RMS_NORM = Op(
    "rms_norm",
    _sample,
    Backend("native", native.rms_norm, native.refuses, lacks),
    Backend("triton", triton.rms_norm, triton.refuses, lacks_triton),
    Backend("eager", eager.rms_norm),
)
