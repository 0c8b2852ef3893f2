"""The step compiled for the CPU: the state of every sequence is read once and written once, where it lies (native/mamba2_step.cpp)."""

import ctypes
import functools

import torch
from torch import Tensor

from amaru.errors import ConfigError
from amaru.ops.mamba2_step.weights import Weights
from amaru.ops.native import kernel, short

LARGEST_STATE, MOST_TAPS = 256, 8  # as in native/mamba2_step.cpp
SERVED = (torch.bfloat16, torch.float32)
EIGHT = ctypes.c_int64 * 8


def refuses(
    projected: Tensor, conv: Tensor, ssm: Tensor, slots: Tensor, fresh: Tensor, weights: Weights, bounds: Tensor | None = None
) -> str | None:
    dtype = projected.dtype
    if weights.A_log.dtype is not torch.float32:
        return f"needs A_log, D and dt_bias in float32, got {short(weights.A_log.dtype)}"
    if not projected.is_cpu or dtype not in SERVED or ssm.dtype not in SERVED:
        return f"serves float32 and bfloat16 on the CPU, got {short(dtype)} with {short(ssm.dtype)} states on {projected.device.type}"
    if conv.dtype is not dtype:
        return f"needs the convolution's state in the dtype of activations, got {short(conv.dtype)} and {short(dtype)}"
    if ssm.shape[3] > LARGEST_STATE or weights.conv_weight.shape[2] > MOST_TAPS:
        return f"serves up to {LARGEST_STATE} states and {MOST_TAPS} taps, got {ssm.shape[3]} and {weights.conv_weight.shape[2]}"
    if torch.is_grad_enabled() and (projected.requires_grad or weights.D.requires_grad):
        return "records no gradients"
    if not (conv.is_contiguous() and ssm.is_contiguous() and projected.stride(1) == 1):
        return "needs contiguous states"
    return None


def mamba2_step(
    projected: Tensor, conv: Tensor, ssm: Tensor, slots: Tensor, fresh: Tensor, weights: Weights, bounds: Tensor | None = None
) -> Tensor:
    _, heads, channels, state = ssm.shape
    taps, norm_weight = weights.conv_weight.shape[2], weights.norm_weight
    out = projected.new_empty(len(projected), heads * channels)
    bounds = _counted(len(slots)) if bounds is None else bounds.to(torch.int64).contiguous()
    sizes = EIGHT(len(slots), heads, channels, weights.groups, state, taps, projected.stride(0), len(ssm))
    wrong = kernel("mamba2_step", "iiiippfff" + "p" * 12 + "i", returns=True)(
        projected.dtype is torch.bfloat16,
        ssm.dtype is torch.bfloat16,
        weights.conv_weight.dtype is torch.bfloat16,
        norm_weight.dtype is torch.bfloat16,
        sizes,
        bounds.data_ptr(),
        weights.eps,
        *weights.time_step_limit,
        projected.data_ptr(),
        conv.data_ptr(),
        ssm.data_ptr(),
        slots.data_ptr(),
        fresh.data_ptr(),
        weights.conv_weight.data_ptr(),
        weights.conv_bias.data_ptr(),
        weights.dt_bias.data_ptr(),
        weights.A_log.data_ptr(),
        weights.D.data_ptr(),
        norm_weight.data_ptr(),
        out.data_ptr(),
        torch.get_num_threads(),
    )
    if wrong >= 0:
        raise ConfigError(f"Sequence {wrong} of the batch has slot {int(slots[wrong])}; the pool has slots 0 to {len(ssm) - 1}.")
    return out


@functools.lru_cache
def _counted(sequences: int) -> Tensor:
    """The boundaries of sequences that bring a token each."""
    return torch.arange(sequences + 1)
