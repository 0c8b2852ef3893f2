"""x wᵀ + bias: the product that every projection of a model is."""

import torch
from torch import Tensor

from amaru.errors import ConfigError
from amaru.ops.backends import Backend, Op
from amaru.ops.linear import eager, native
from amaru.ops.native import lacks


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x wᵀ + bias, summed in at least float32.

    >>> linear(x, weight)      # x [..., cols], weight [rows, cols] -> [..., rows]

    All of one dtype. Few rows of x (decoding) are bound by reading the weight, which the native kernel does once and in order;
    many are left to torch. Inside `exact()` a row of the result has the same bits whatever other rows x has.
    Raises `ConfigError` for shapes or dtypes that do not fit, `BackendError` if a forced backend refuses.
    """
    if LINEAR.lean and native.refuses(x, weight, bias) is None:
        return native.linear(x, weight, bias)
    _check(x, weight, bias)
    return LINEAR(x, weight, bias)


def _check(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    if weight.dim() != 2 or x.shape[-1:] != weight.shape[1:] or (bias is not None and bias.shape != weight.shape[:1]):
        raise ConfigError(
            f"x [..., cols] meets weight [rows, cols] and bias [rows]; got {list(x.shape)}, {list(weight.shape)} and "
            f"{None if bias is None else list(bias.shape)}."
        )
    if x.dtype != weight.dtype or (bias is not None and bias.dtype != x.dtype):
        raise ConfigError(f"x, weight and bias have one dtype; got {x.dtype}, {weight.dtype} and {None if bias is None else bias.dtype}.")


def _sample(dtype: torch.dtype) -> tuple[tuple, dict]:
    return (torch.zeros(1, 8, dtype=dtype), torch.zeros(4, 8, dtype=dtype)), {}


LINEAR = Op("linear", _sample, Backend("native", native.linear, native.refuses, lacks), Backend("eager", eager.linear))
