"""What the kernels of both scans, of Mamba-1 and of Mamba-2, ask of their inputs, and how these lie in memory for them."""

from typing import Any

from torch import Tensor

from amaru.ops.native import short, token_rows


def unequal(x: Tensor, B: Tensor, C: Tensor) -> str | None:
    """Why a kernel that reads one dtype refuses these, or None where it does not."""
    if x.dtype == B.dtype == C.dtype:
        return None
    return f"needs x, B and C of one dtype, got {short(x.dtype)}, {short(B.dtype)} and {short(C.dtype)}"


def laid_out(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, initial: Tensor | None) -> list[Any]:
    """Numbers of one token together, which may be slices of wider rows; everything else in one piece."""
    states = None if initial is None else initial.contiguous()
    return [token_rows(x), dt.contiguous(), A.contiguous(), token_rows(B), token_rows(C), D.contiguous(), states]
