"""The convolution on a CUDA GPU: one pass over the tokens each way (triton/causal_conv1d.py)."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from amaru.ops.native import token_rows
from amaru.ops.triton import blocks, boundaries, kernels, launch, power_of_two, refusal

TOKENS, ROWS = 16, 128  # of a program


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
    learns = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad or bias.requires_grad)
    if learns and (initial_states is not None or return_states):
        return "records no gradients through states"
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
    if initial_states is None and not return_states:
        return _Conv.apply(x, weight.float(), bias.float(), cu_seqlens, silu), None  # type: ignore[return-value]
    x, initial = token_rows(x), None if initial_states is None else initial_states.to(x.dtype).contiguous()
    y = _forward(x, weight.contiguous(), bias.contiguous(), initial, cu_seqlens, silu)
    return y, _states(x, initial, cu_seqlens, weight.shape[1]) if return_states else None


def _forward(x: Tensor, weight: Tensor, bias: Tensor, initial: Tensor | None, cu_seqlens: Tensor, silu: bool) -> Tensor:
    y = x.new_empty(x.shape)
    where = _where(cu_seqlens, x)
    shape = _shape(weight, silu)
    launch(kernels("causal_conv1d").forward, _grid(where, weight), x, weight, bias, initial, *where, y, x.stride(0), **shape)
    return y


def _states(x: Tensor, initial: Tensor | None, cu_seqlens: Tensor, taps: int) -> Tensor:
    bounds = boundaries(cu_seqlens, x.device)
    final = x.new_empty(len(bounds) - 1, x.shape[1], taps - 1)
    sizes = {"ROWS": x.shape[1], "TAPS": taps, "ROW_BLOCK": ROWS, "LAG_BLOCK": power_of_two(taps - 1)}
    if taps > 1:
        launch(kernels("causal_conv1d").states, (len(final), -(-x.shape[1] // ROWS)), x, initial, bounds, final, x.stride(0), **sizes)
    return final


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, cu_seqlens: Tensor, silu: bool) -> Tensor:
        x, weight, bias = token_rows(x), weight.contiguous(), bias.contiguous()
        ctx.save_for_backward(x, weight, bias)
        ctx.cu_seqlens, ctx.silu = cu_seqlens, silu
        return _forward(x, weight, bias, None, cu_seqlens, silu)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias = ctx.saved_tensors
        where = _where(ctx.cu_seqlens, x)
        grid = _grid(where, weight)
        dx, dweight, dbias = x.new_empty(x.shape), weight.new_empty(grid[0], *weight.shape), bias.new_empty(grid[0], len(bias))
        given = x, weight, bias, *where, dy.contiguous(), dx, dweight, dbias, x.stride(0)
        launch(kernels("causal_conv1d").backward, grid, *given, **_shape(weight, ctx.silu))
        return dx, dweight.sum(0), dbias.sum(0), None, None


def _where(cu_seqlens: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    return blocks(cu_seqlens, TOKENS, x.device), boundaries(cu_seqlens, x.device)


def _grid(where: tuple[Tensor, Tensor], weight: Tensor) -> tuple[int, int]:
    return len(where[0]), -(-len(weight) // ROWS)


def _shape(weight: Tensor, silu: bool) -> dict[str, Any]:
    return {"ROWS": len(weight), "TAPS": weight.shape[1], "SILU": silu, "TOKEN_BLOCK": TOKENS, "ROW_BLOCK": ROWS}
