"""The norm behind the scan: gate first, then RMS over each group by itself."""

import torch
from torch import Tensor

from amaru.errors import ConfigError
from amaru.ops.arguments import expect_shape
from amaru.ops.backends import Backend, Op
from amaru.ops.gated_rmsnorm import native, reference, triton
from amaru.ops.native import lacks
from amaru.ops.triton import lacks as lacks_triton


def gated_rmsnorm(y: Tensor, z: Tensor, weight: Tensor, *, groups: int, eps: float) -> Tensor:
    """u = y * silu(z); within each of `groups` equal parts of the last axis u / sqrt(mean(u²) + eps); times weight.

    >>> gated_rmsnorm(y, z, weight, groups=8, eps=1e-5)      # y, z [T, inner], weight [inner] -> [T, inner]

    Everything in at least float32, then cast to y's dtype. One group over all of `inner` would be another model.
    Raises `ConfigError` for shapes that do not fit, `BackendError` if a forced backend refuses.
    """
    if y.dim() != 2:
        raise ConfigError(f"y is [T, inner]; got {list(y.shape)}.")
    expect_shape("z", z, *y.shape)
    expect_shape("weight", weight, y.shape[1])
    if groups < 1 or y.shape[1] % groups:
        raise ConfigError(f"groups must divide inner; got {groups} and {y.shape[1]}.")
    return NORM(y, z, weight, groups=groups, eps=eps)


def _sample(dtype: torch.dtype) -> tuple[tuple, dict]:
    y = torch.zeros(2, 8, dtype=dtype)
    return (y, y, torch.ones(8)), {"groups": 2, "eps": 1e-5}


NORM = Op(
    "gated_rmsnorm",
    _sample,
    Backend("native", native.gated_rmsnorm, native.refuses, lacks),
    Backend("triton", triton.gated_rmsnorm, triton.refuses, lacks_triton),
    Backend("reference", reference.gated_rmsnorm),
)
