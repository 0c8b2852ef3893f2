"""The activation of Nemotron's feed-forward layers."""

import torch
from torch import Tensor

from amaru.ops.backends import Backend, Op
from amaru.ops.native import lacks
from amaru.ops.squared_relu import eager, native, triton
from amaru.ops.triton import lacks as lacks_triton


def squared_relu(x: Tensor) -> Tensor:
    """max(x, 0)², element by element (Primer, https://arxiv.org/abs/2109.08668).

    >>> squared_relu(torch.tensor([-2.0, 3.0]))
    tensor([0., 9.])

    Raises `BackendError` if a forced backend refuses.
    """
    if SQUARED_RELU.lean and native.refuses(x) is None:
        return native.squared_relu(x)
    return SQUARED_RELU(x)


def _sample(dtype: torch.dtype) -> tuple[tuple, dict]:
    return (torch.zeros(2, 8, dtype=dtype),), {}


SQUARED_RELU = Op(
    "squared_relu",
    _sample,
    Backend("native", native.squared_relu, native.refuses, lacks),
    Backend("triton", triton.squared_relu, triton.refuses, lacks_triton),
    Backend("eager", eager.squared_relu),
)
