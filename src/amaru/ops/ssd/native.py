"""The scan compiled for the CPU: a blocked recurrence whose backward pass needs no saved states (native/ssd.cpp, README.md)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from amaru.ops.native import call, refusal
from amaru.ops.scans import laid_out, unequal

LARGEST = 256  # LIMIT in native/ssd.cpp


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
    chunk_size: int = 128,
) -> str | None:
    if max(x.shape[2], B.shape[2]) > LARGEST:
        return f"serves up to {LARGEST} channels and state, got {x.shape[2]} and {B.shape[2]}"
    return unequal(x, B, C) or refusal(x, dt, A, B, C, D, initial_states)


def ssd(
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
    chunk_size: int = 128,
) -> tuple[Tensor, Tensor | None]:
    initial = None if initial_states is None else initial_states.float()
    return _SSD.apply(x, dt.float(), A.float(), B, C, D.float(), initial, cu_seqlens, return_states, chunk_size)  # type: ignore[no-any-return]


class _SSD(torch.autograd.Function):
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
        chunk_size: int,
    ) -> tuple[Tensor, Tensor | None]:
        inputs = laid_out(x, dt, A, B, C, D, initial)
        bounds = cu_seqlens.to("cpu", torch.int64).contiguous()
        y = torch.empty(x.shape, dtype=x.dtype)
        final = torch.empty(len(bounds) - 1, *x.shape[1:], B.shape[2]) if return_states else None
        call("ssd_forward", *_description(inputs, bounds), *inputs, y, final, torch.get_num_threads())
        ctx.save_for_backward(*inputs, bounds)
        ctx.chunk_size = chunk_size
        ctx.set_materialize_grads(False)
        return y, final

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor | None, dfinal: Tensor | None) -> tuple[Tensor | None, ...]:
        *inputs, bounds = ctx.saved_tensors
        x, dt, _, B, _, _, initial = inputs
        (tokens, heads, _), (groups, state), sequences = x.shape, B.shape[1:], len(bounds) - 1
        description = _description(inputs, bounds)
        dy = torch.zeros(x.shape, dtype=x.dtype) if dy is None else dy.contiguous()
        dfinal = None if dfinal is None else dfinal.contiguous()
        dx, ddt = torch.empty(x.shape, dtype=x.dtype), torch.empty_like(dt)
        dA, dD = torch.empty(2, sequences, heads).unbind()
        dB, dC = torch.empty(2, tokens, groups, call("ssd_parts", description[1]) // groups, state).unbind()
        dinitial = None if initial is None else torch.empty_like(initial)
        call("ssd_backward", *description, *inputs, dy, dfinal, dx, ddt, dA, dD, dB, dC, dinitial, ctx.chunk_size, torch.get_num_threads())
        dB, dC = (partial.sum(2).to(B.dtype) for partial in (dB, dC))
        return dx, ddt, dA.sum(0), dB, dC, dD.sum(0), dinitial, None, None, None


def _description(inputs: Sequence[Any], bounds: Tensor) -> tuple[int, list[int], Tensor, list[int]]:
    """The first arguments of the kernels: dtype, sizes, boundaries, and the strides of x, B and C from token to token."""
    x, B, C = inputs[0], inputs[3], inputs[4]
    sizes = [len(bounds) - 1, *x.shape[1:], *B.shape[1:]]
    return int(x.dtype == torch.bfloat16), sizes, bounds, [x.stride(0), B.stride(0), C.stride(0)]
