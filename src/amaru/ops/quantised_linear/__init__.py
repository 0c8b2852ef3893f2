"""x wᵀ + bias with a weight that is stored in 8 or 4 bits."""

import torch
from torch import Tensor

from amaru.ops.backends import Backend, Op
from amaru.ops.quantised_linear import dequantised, native, triton
from amaru.ops.quantised_linear.codes import BLOCK, GROUPS, Encoding, Kind, check_codes, pack, unpack, width_of
from amaru.ops.quantised_linear.dequantised import dequantise
from amaru.ops.triton import lacks as lacks_triton

__all__ = [
    "BLOCK",
    "GROUPS",
    "Encoding",
    "Kind",
    "check_codes",
    "dequantise",
    "pack",
    "quantised_linear",
    "unpack",
    "width_of",
]


def quantised_linear(x: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None = None) -> Tensor:
    """x wᵀ + bias, w[r, c] = codes[r, c] * the scale of its row, or of its group of columns.

    >>> quantised_linear(x, codes, scales)      # x [T, cols] -> [T, rows]

    8 bits: codes int8 or float8_e4m3fn [rows, cols], scales float32 [rows]. 4 bits: codes uint8 as `pack` lays them out, scales bfloat16
    [rows, groups]. A few rows of x are bound by reading the codes, and the native kernel reads nothing else; with integer codes it rounds
    x to 16-bit integers with one scale for each row. Otherwise the weight is made bfloat16 (or x's dtype) first.
    Raises `ConfigError` for shapes that do not fit, `BackendError` if a forced backend refuses.
    """
    check_codes(codes, scales, x.shape[-1])
    if QUANTISED_LINEAR.lean and native.refuses(x, codes, scales, bias) is None:
        return native.quantised_linear(x, codes, scales, bias)
    return QUANTISED_LINEAR(x, codes, scales, bias)


def _sample(dtype: torch.dtype) -> tuple[tuple, dict]:
    return (torch.zeros(1, 8, dtype=torch.bfloat16), torch.zeros(4, 8, dtype=torch.int8), torch.ones(4)), {}


QUANTISED_LINEAR = Op(
    "quantised_linear",
    _sample,
    Backend("native", native.quantised_linear, native.refuses, native.lacks_instructions),
    Backend("triton", triton.quantised_linear, triton.refuses, lacks_triton),
    Backend("dequantised", dequantised.quantised_linear),
)
