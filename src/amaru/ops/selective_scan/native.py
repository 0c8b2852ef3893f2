"""The scan compiled for the CPU, with states in registers; backward starts from the states between chunks (native/selective_scan.cpp)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from amaru.ops.exactness import is_exact
from amaru.ops.native import call, refusal
from amaru.ops.scans import laid_out, unequal

CHUNK = 32  # tokens between two states that are kept for the backward pass; as in native/selective_scan.cpp


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
    return unequal(x, B, C) or refusal(x, dt, A, B, C, D, initial_states)


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
    tensors = x, dt.float(), A.float(), B, C, D.float(), initial
    keeps = torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)
    return _Scan.apply(*tensors, cu_seqlens, return_states, keeps)  # type: ignore[no-any-return]


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
        keeps: bool,
    ) -> tuple[Tensor, Tensor | None]:
        inputs = laid_out(x, dt, A, B, C, D, initial)
        bounds = cu_seqlens.to("cpu", torch.int64).contiguous()
        (tokens, inner), state, sequences = x.shape, A.shape[1], len(bounds) - 1
        y = torch.empty(x.shape, dtype=x.dtype)
        kept = torch.empty(tokens // CHUNK + sequences, state, inner) if keeps else None
        final = torch.empty(sequences, inner, state) if return_states else None
        call("scan_forward", *_description(inputs, bounds), *inputs, y, kept, final, int(is_exact()), torch.get_num_threads())
        ctx.save_for_backward(*inputs, bounds, kept)
        ctx.set_materialize_grads(False)
        return y, final

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor | None, dfinal: Tensor | None) -> tuple[Tensor | None, ...]:
        *inputs, bounds, kept = ctx.saved_tensors
        x, dt, A, B, _, D, initial = inputs
        description = _description(inputs, bounds)
        dy = torch.zeros(x.shape, dtype=x.dtype) if dy is None else dy.contiguous()
        dfinal = None if dfinal is None else dfinal.contiguous()
        dx, ddt, dA, dD = torch.empty(x.shape, dtype=x.dtype), torch.empty_like(dt), torch.empty_like(A), torch.empty_like(D)
        dB, dC = torch.empty(2, len(x), call("scan_parts", description[1]), A.shape[1]).unbind()
        dinitial = None if initial is None else torch.empty_like(initial)
        gradients = dx, ddt, dA, dB, dC, dD, dinitial
        call("scan_backward", *description, *inputs, kept, dy, dfinal, *gradients, torch.get_num_threads())
        dB, dC = (partial.sum(1).to(B.dtype) for partial in (dB, dC))
        return dx, ddt, dA, dB, dC, dD, dinitial, None, None, None


def _description(inputs: Sequence[Any], bounds: Tensor) -> tuple[int, list[int], Tensor, list[int]]:
    """The first arguments of the kernels: dtype, sizes, boundaries, and the strides of x, B and C from token to token."""
    x, A, B, C = inputs[0], inputs[2], inputs[3], inputs[4]
    sizes = [len(bounds) - 1, x.shape[1], A.shape[1]]
    return int(x.dtype == torch.bfloat16), sizes, bounds, [x.stride(0), B.stride(0), C.stride(0)]
