"""The scan on a CUDA GPU: one launch forward, two backward (triton/selective_scan.py)."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from amaru.ops.exactness import unless_exact
from amaru.ops.scans import laid_out, unequal
from amaru.ops.triton import boundaries, kernels, launch, power_of_two, refusal

CHUNK = 16  # tokens
HELD = 4096  # numbers of a chunk's states that a program holds at once
WIDEST = 64  # numbers of a channel's state


def refuses(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    *,
    cu_seqlens: Tensor,
    initial_states: Tensor | None = None,
    return_states: bool = False,
) -> str | None:
    if A.shape[1] > WIDEST:
        return f"serves up to {WIDEST} numbers of state for each channel, got {A.shape[1]}"
    return unequal(x, B, C) or refusal(x, dt, A, B, C, D, initial_states) or unless_exact()


def selective_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    *,
    cu_seqlens: Tensor,
    initial_states: Tensor | None = None,
    return_states: bool = False,
) -> tuple[Tensor, Tensor | None]:
    initial = None if initial_states is None else initial_states.float()
    return _Scan.apply(x, dt.float(), A.float(), B, C, D.float(), initial, cu_seqlens, return_states)  # type: ignore[no-any-return]


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor,
        initial: Tensor | None,
        cu_seqlens: Tensor,
        return_states: bool,
    ) -> tuple[Tensor, Tensor | None]:
        *inputs, initial = laid_out(x, dt, A, B, C, D, initial)
        bounds = boundaries(cu_seqlens, x.device)
        y = x.new_empty(x.shape)
        final = A.new_empty(len(bounds) - 1, *A.shape) if return_states else None
        _launch("forward", inputs, initial, bounds, y, final, None)
        ctx.save_for_backward(*inputs, initial, bounds)
        ctx.set_materialize_grads(False)
        return y, final

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor | None, dfinal: Tensor | None) -> tuple[Tensor | None, ...]:
        *inputs, initial, bounds = ctx.saved_tensors
        x, dt, A, B, _, D = inputs
        (tokens, inner), state, sequences = x.shape, A.shape[1], len(bounds) - 1
        kept = A.new_empty(tokens // CHUNK + sequences, inner, state)
        _launch("forward", inputs, initial, bounds, None, None, kept)
        dy = x.new_zeros(x.shape) if dy is None else dy.contiguous()
        dfinal = None if dfinal is None else dfinal.contiguous()
        dx, ddt, dinitial = x.new_empty(x.shape), torch.empty_like(dt), None if initial is None else torch.empty_like(initial)
        dA, dD = A.new_empty(sequences, inner, state), D.new_empty(sequences, inner)
        dB, dC = A.new_empty(2, -(-inner // _channels(A)), tokens, state).unbind()
        _launch("backward", inputs, bounds, kept, dy, dfinal, dx, ddt, dA, dB, dC, dD, dinitial, tokens)
        dB, dC = (partial.sum(0).to(B.dtype) for partial in (dB, dC))
        return dx, ddt, dA.sum(0), dB, dC, dD.sum(0), dinitial, None, None


def _launch(name: str, inputs: Any, *others: Any) -> None:
    x, _, A, B, C, _ = inputs
    bounds = next(each for each in others if isinstance(each, Tensor) and each.dtype is torch.int64)
    block = _channels(A)
    sizes = {"INNER": x.shape[1], "STATE": A.shape[1], "CHUNK": CHUNK, "CHANNEL_BLOCK": block, "STATE_BLOCK": power_of_two(A.shape[1])}
    grid = -(-x.shape[1] // block), len(bounds) - 1
    launch(getattr(kernels("selective_scan"), name), grid, *inputs, *others, x.stride(0), B.stride(0), C.stride(0), **sizes)


def _channels(A: Tensor) -> int:
    """Of a program."""
    return max(1, HELD // CHUNK // power_of_two(A.shape[1]))
