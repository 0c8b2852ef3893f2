"""x wᵀ + bias with a weight that is stored in 8 or 4 bits."""

import torch
from torch import Tensor

from amaru.errors import ConfigError
from amaru.ops.backends import Backend, Op
from amaru.ops.quantised_linear import dequantised, native
from amaru.ops.quantised_linear.codes import BLOCK, GROUP, pack, unpack
from amaru.ops.quantised_linear.dequantised import dequantise

__all__ = ["BLOCK", "GROUP", "dequantise", "pack", "quantised_linear", "unpack"]


def quantised_linear(x: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None = None) -> Tensor:
    """x wᵀ + bias, w[r, c] = codes[r, c] * the scale of its row, or of its group of columns.

    >>> quantised_linear(x, codes, scales)      # x [T, cols] -> [T, rows]

    8 bits: codes int8 [rows, cols], scales float32 [rows]. 4 bits: codes uint8 as `pack` lays them out, scales bfloat16 [rows, groups].
    One to three rows of x are bound by reading the codes, and the native kernel reads nothing else; it rounds x to 16-bit integers with
    one scale for each row. Otherwise the weight is made bfloat16 (or x's dtype) first.
    Raises `ConfigError` for shapes that do not fit, `BackendError` if a forced backend refuses.
    """
    _check(x, codes, scales)
    if QUANTISED_LINEAR.lean and native.refuses(x, codes, scales, bias) is None:
        return native.quantised_linear(x, codes, scales, bias)
    return QUANTISED_LINEAR(x, codes, scales, bias)


def _check(x: Tensor, codes: Tensor, scales: Tensor) -> None:
    cols, rows = x.shape[-1], codes.shape[0]
    width = -(-cols // BLOCK) * BLOCK
    eight = codes.dtype is torch.int8 and codes.shape == (rows, cols) and scales.dtype is torch.float32 and scales.shape == (rows,)
    four = codes.dtype is torch.uint8 and codes.shape == (rows, width // 2) and scales.dtype is torch.bfloat16
    if not (eight or (four and scales.shape == (rows, width // GROUP))):
        raise ConfigError(
            f"{cols} columns are int8 [rows, {cols}] with float32 scales [rows], or uint8 [rows, {width // 2}] with bfloat16 scales "
            f"[rows, {width // GROUP}]; got {codes.dtype} {list(codes.shape)} and {scales.dtype} {list(scales.shape)}."
        )


def _sample(dtype: torch.dtype) -> tuple[tuple, dict]:
    return (torch.zeros(1, 8, dtype=torch.bfloat16), torch.zeros(4, 8, dtype=torch.int8), torch.ones(4)), {}


QUANTISED_LINEAR = Op(
    "quantised_linear",
    _sample,
    Backend("native", native.quantised_linear, native.refuses, native.lacks_integers),
    Backend("dequantised", dequantised.quantised_linear),
)
