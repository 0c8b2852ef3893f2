"""The norm compiled for the CPU: one pass, without gradients (native/rms_norm.cpp)."""

import torch
from torch import Tensor

from amaru.ops.native import kernel, short

SERVED = (torch.bfloat16, torch.float32)


def refuses(x: Tensor, weight: Tensor, *, eps: float) -> str | None:
    if not x.is_cpu or x.dtype not in SERVED or weight.dtype not in SERVED:
        return f"serves float32 and bfloat16 on the CPU, got {short(x.dtype)} and {short(weight.dtype)} on {x.device.type}"
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        return "records no gradients"
    return None


def rms_norm(x: Tensor, weight: Tensor, *, eps: float) -> Tensor:
    if x.dim() != 2 or x.stride(1) != 1:
        return rms_norm(x.reshape(-1, x.shape[-1]).contiguous(), weight, eps=eps).view(x.shape)
    tokens, width = x.shape
    y = x.new_empty(tokens, width)
    kernel("rms_norm", "iiiiifpppi")(
        x.dtype is torch.bfloat16,
        weight.dtype is torch.bfloat16,
        tokens,
        width,
        x.stride(0),
        eps,
        x.data_ptr(),
        weight.contiguous().data_ptr(),
        y.data_ptr(),
        torch.get_num_threads(),
    )
    return y
