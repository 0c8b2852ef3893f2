"""The gate of Llama's MLP."""

import torch
import torch.nn.functional as F
from torch import Tensor

from amaru.ops.backends import Backend, Op
from amaru.ops.gated_silu import native, triton
from amaru.ops.native import lacks
from amaru.ops.triton import lacks as lacks_triton


def gated_silu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up.

    >>> down(gated_silu(gate(x), up(x)))      # both [T, ffn], of one dtype

    Raises `BackendError` if a forced backend refuses.
    """
    if GATED_SILU.lean and native.refuses(gate, up) is None:
        return native.gated_silu(gate, up)
    return GATED_SILU(gate, up)


def eager(gate: Tensor, up: Tensor) -> Tensor:
    return F.silu(gate) * up


def _sample(dtype: torch.dtype) -> tuple[tuple, dict]:
    return (torch.zeros(2, 8, dtype=dtype), torch.ones(2, 8, dtype=dtype)), {}


GATED_SILU = Op(
    "gated_silu",
    _sample,
    Backend("native", native.gated_silu, native.refuses, lacks),
    Backend("triton", triton.gated_silu, triton.refuses, lacks_triton),
    Backend("eager", eager),
)
