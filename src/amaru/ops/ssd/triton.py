"""The scan on a CUDA GPU: one launch forward, four backward, whatever the number of sequences (triton/ssd.py)."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from amaru.ops.exactness import unless_exact
from amaru.ops.scans import laid_out, unequal
from amaru.ops.triton import blocks, boundaries, kernels, launch, operands, power_of_two, refusal

CHUNK, WIDE_CHUNK = 64, 16  # tokens; of float32, whose products take no matrix units, more would not fit into registers
HELD = 8192  # numbers of a state that a program holds while it goes through a sequence: 64 channels of 128, 32 of 256
WARPS = 8  # of four, registers are spilled
WIDEST, WIDEST_LEARNING = 256, 128  # channels and state: one chunk's backward takes all of a head at once
LEAST = 16  # what products of blocks ask for


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
    learns = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, dt, A, B, C, D))
    if max(x.shape[2], B.shape[2]) > (most := WIDEST_LEARNING if learns else WIDEST):
        return f"serves up to {most} channels and state{' in training' if learns else ''}, got {x.shape[2]} and {B.shape[2]}"
    return unequal(x, B, C) or refusal(x, dt, A, B, C, D, initial_states) or unless_exact()


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
    del chunk_size  # blocks of the machine's size
    initial = None if initial_states is None else initial_states.float()
    return _SSD.apply(x, dt.float(), A.float(), B, C, D.float(), initial, cu_seqlens, return_states)  # type: ignore[no-any-return]


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
    ) -> tuple[Tensor, Tensor | None]:
        *inputs, initial = laid_out(x, dt, A, B, C, D, initial)
        bounds = boundaries(cu_seqlens, x.device)
        y = x.new_empty(x.shape)
        final = A.new_empty(len(bounds) - 1, *x.shape[1:], B.shape[2]) if return_states else None
        _scan(inputs, initial, bounds, y, final, None)
        ctx.save_for_backward(*inputs, initial, bounds)
        ctx.cu_seqlens = cu_seqlens
        ctx.set_materialize_grads(False)
        return y, final

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor | None, dfinal: Tensor | None) -> tuple[Tensor | None, ...]:
        *inputs, initial, bounds = ctx.saved_tensors
        x, dt, A, B, C, _ = inputs
        (tokens, heads, channels), sequences = x.shape, len(bounds) - 1
        states, dstates = x.new_empty(2, tokens // _chunk(x) + sequences, heads, channels, B.shape[2]).unbind()
        dy = x.new_zeros(x.shape) if dy is None else dy.contiguous()
        dfinal = None if dfinal is None else dfinal.contiguous()
        dinitial = None if initial is None else torch.empty_like(initial)
        _scan(inputs, initial, bounds, None, None, states)
        given = dt, A, C, bounds, dy, dfinal, dstates, dinitial, C.stride(0)
        launch(kernels("ssd").chain, _chains(x, B, sequences), *given, **_shape(x, B), **_in_blocks(x, B))
        pieces = blocks(ctx.cu_seqlens, _chunk(x), x.device)
        between, strides = (pieces, bounds, states, dstates, dy), (x.stride(0), B.stride(0), C.stride(0))
        dx, ddt, dB, dC = x.new_empty(x.shape), torch.empty_like(dt), B.new_empty(B.shape), C.new_empty(C.shape)
        dA, dD = dt.new_empty(2, len(pieces), heads).unbind()
        shape = _shape(x, B) | {"CHANNEL_BLOCK": power_of_two(channels, LEAST), "num_warps": WARPS}
        launch(kernels("ssd").by_inputs, (heads, len(pieces)), *inputs, *between, dx, ddt, dA, dD, *strides, **shape)
        launch(kernels("ssd").by_groups, (B.shape[1], len(pieces)), *inputs[:5], *between, dB, dC, *strides, **shape)
        return dx, ddt, dA.sum(0), dB, dC, dD.sum(0), dinitial, None, None


def _scan(
    inputs: tuple[Tensor, ...] | list[Tensor],
    initial: Tensor | None,
    bounds: Tensor,
    y: Tensor | None,
    final: Tensor | None,
    kept: Tensor | None,
) -> None:
    x, _, _, B, C, _ = inputs
    given = *inputs, initial, bounds, y, final, kept, x.stride(0), B.stride(0), C.stride(0)
    launch(kernels("ssd").forward, _chains(x, B, len(bounds) - 1), *given, **_shape(x, B), **_in_blocks(x, B))


def _chains(x: Tensor, B: Tensor, sequences: int) -> tuple[int, int]:
    """The grid of kernels that go through a sequence."""
    _, heads, channels = x.shape
    return heads * -(-channels // _in_blocks(x, B)["CHANNEL_BLOCK"]), sequences


def _in_blocks(x: Tensor, B: Tensor) -> dict[str, int]:
    at_once = max(LEAST, HELD // power_of_two(B.shape[2], LEAST))
    return {"CHANNEL_BLOCK": min(at_once, power_of_two(x.shape[2], LEAST)), "num_warps": WARPS}


def _shape(x: Tensor, B: Tensor) -> dict[str, Any]:
    (_, heads, channels), (groups, state) = x.shape, B.shape[1:]
    sizes = {"HEADS": heads, "CHANNELS": channels, "GROUPS": groups, "STATE": state, "CHUNK": _chunk(x)}
    stages = 3 if x.dtype is torch.bfloat16 else 1
    return sizes | {"STATE_BLOCK": power_of_two(state, LEAST), "num_stages": stages} | operands(x.dtype)


def _chunk(x: Tensor) -> int:
    return CHUNK if x.dtype is torch.bfloat16 else WIDE_CHUNK
