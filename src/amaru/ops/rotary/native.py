"""The rotation compiled for the CPU, without gradients: the same bits as torch's (native/rotary.cpp)."""

import ctypes

import torch
from torch import Tensor

from amaru.ops.native import kernel, short

SERVED = (torch.bfloat16, torch.float32)
SIX = ctypes.c_int64 * 6
MOST = 64  # tokens; more are worth torch's threads


def refuses(x: Tensor, cos: Tensor, sin: Tensor) -> str | None:
    if not x.is_cpu or x.dtype not in SERVED or cos.dtype is not torch.float32:
        return f"serves float32 and bfloat16 on the CPU, got {short(x.dtype)} and {short(cos.dtype)} on {x.device.type}"
    if len(x) > MOST:
        return f"serves up to {MOST} tokens, got {len(x)}"
    if x.stride(2) != 1 or not (cos.is_contiguous() and sin.is_contiguous()):
        return "needs contiguous channels"
    if torch.is_grad_enabled() and x.requires_grad:
        return "records no gradients"
    return None


def rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    to = x.new_empty(x.shape)
    sizes = SIX(*x.shape, cos.shape[-1], x.stride(0), x.stride(1))
    kernel("rotary", "ippppp")(x.dtype is torch.bfloat16, sizes, x.data_ptr(), cos.data_ptr(), sin.data_ptr(), to.data_ptr())
    return to
