"""The step compiled for the CPU: states move on where they lie (native/conv_step.cpp)."""

import ctypes

import torch
from torch import Tensor

from amaru.errors import ConfigError
from amaru.ops.native import kernel, short

MOST_TAPS = 8  # as in native/steps.h
SERVED = (torch.bfloat16, torch.float32)
FIVE = ctypes.c_int64 * 5


def refuses(x: Tensor, conv: Tensor, slots: Tensor, fresh: Tensor, weight: Tensor, bias: Tensor, bounds: Tensor) -> str | None:
    if not x.is_cpu or x.dtype not in SERVED or conv.dtype is not x.dtype or weight.dtype not in SERVED:
        return f"serves float32 and bfloat16 on the CPU, got {short(x.dtype)} with {short(conv.dtype)} states on {x.device.type}"
    if weight.shape[2] > MOST_TAPS:
        return f"serves up to {MOST_TAPS} taps, got {weight.shape[2]}"
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        return "records no gradients"
    if not (conv.is_contiguous() and weight.is_contiguous() and x.stride(1) == 1 and bias.dtype is weight.dtype):
        return "needs contiguous states and a weight and a bias of one dtype"
    return None


def conv_step(x: Tensor, conv: Tensor, slots: Tensor, fresh: Tensor, weight: Tensor, bias: Tensor, bounds: Tensor) -> Tensor:
    out = x.new_empty(x.shape)
    wrong = kernel("conv_step", "ii" + "p" * 9 + "i", returns=True)(
        x.dtype is torch.bfloat16,
        weight.dtype is torch.bfloat16,
        FIVE(len(slots), x.shape[1], weight.shape[2], x.stride(0), len(conv)),
        bounds.data_ptr(),
        x.data_ptr(),
        conv.data_ptr(),
        slots.data_ptr(),
        fresh.data_ptr(),
        weight.data_ptr(),
        bias.data_ptr(),
        out.data_ptr(),
        torch.get_num_threads(),
    )
    if wrong >= 0:
        raise ConfigError(f"Sequence {wrong} of the batch has slot {int(slots[wrong])}; the pool has slots 0 to {len(conv) - 1}.")
    return out
