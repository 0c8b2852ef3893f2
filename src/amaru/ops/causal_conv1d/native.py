"""The convolution compiled for the CPU, in one pass over the tokens each way (native/causal_conv1d.cpp)."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from amaru.ops.native import call, refusal, token_rows

MOST_TAPS = 4  # as in native/causal_conv1d.cpp


def refuses(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    cu_seqlens: Tensor,
    initial_states: Tensor | None = None,
    return_states: bool = False,
    silu: bool = True,
) -> str | None:
    if weight.shape[1] > MOST_TAPS:
        return f"serves up to {MOST_TAPS} taps, got {weight.shape[1]}"
    return refusal(x, weight, bias, initial_states)


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    cu_seqlens: Tensor,
    initial_states: Tensor | None = None,
    return_states: bool = False,
    silu: bool = True,
) -> tuple[Tensor, Tensor | None]:
    initial = None if initial_states is None else initial_states.to(x.dtype)
    return _Conv.apply(x, weight.float(), bias.float(), initial, cu_seqlens, return_states, silu)  # type: ignore[no-any-return]


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, initial: Tensor | None, cu_seqlens: Tensor, return_states: bool, silu: bool
    ) -> tuple[Tensor, Tensor | None]:
        x, weight, bias = token_rows(x), weight.contiguous(), bias.contiguous()
        initial = None if initial is None else initial.contiguous()
        bounds = cu_seqlens.to("cpu", torch.int64).contiguous()
        rows, taps = weight.shape
        y = torch.empty(x.shape, dtype=x.dtype)
        final = torch.empty(len(bounds) - 1, rows, taps - 1, dtype=x.dtype) if return_states else None
        description = int(x.dtype == torch.bfloat16), [len(bounds) - 1, rows, taps, x.stride(0)], bounds, int(silu)
        call("conv_forward", *description, x, weight, bias, initial, y, final, torch.get_num_threads())
        ctx.save_for_backward(x, weight, bias, initial, bounds)
        ctx.description = description
        ctx.set_materialize_grads(False)
        return y, final

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor | None, dfinal: Tensor | None) -> tuple[Tensor | None, ...]:
        x, weight, bias, initial, _ = ctx.saved_tensors
        dy = torch.zeros(x.shape, dtype=x.dtype) if dy is None else dy.contiguous()
        dfinal = None if dfinal is None else dfinal.contiguous()
        dx = torch.empty(x.shape, dtype=x.dtype)
        dweight, dbias = torch.empty_like(weight), torch.empty_like(bias)
        dinitial = None if initial is None else torch.empty_like(initial)
        inputs, gradients = (x, weight, bias, initial, dy, dfinal), (dx, dinitial, dweight, dbias)
        call("conv_backward", *ctx.description, *inputs, *gradients, torch.get_num_threads())
        return dx, dweight, dbias, dinitial, None, None, None
