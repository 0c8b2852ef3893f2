"""The sum compiled for the CPU, without gradients: the same bits as torch's (native/add.cpp)."""

import torch
from torch import Tensor

from amaru.ops.native import kernel, short

SERVED = (torch.bfloat16, torch.float32)
MOST = 1 << 18  # elements; more are worth torch's threads


def refuses(x: Tensor, y: Tensor, scale: float = 1.0) -> str | None:
    if not x.is_cpu or x.dtype not in SERVED or y.dtype is not x.dtype or x.shape != y.shape:
        return f"serves float32 and bfloat16 of one shape on the CPU, got {short(x.dtype)} and {short(y.dtype)} on {x.device.type}"
    if x.numel() > MOST:
        return f"serves up to {MOST} elements, got {x.numel()}"
    if not (x.is_contiguous() and y.is_contiguous()):
        return "needs contiguous tensors"
    if torch.is_grad_enabled() and (x.requires_grad or y.requires_grad):
        return "records no gradients"
    return None


def add(x: Tensor, y: Tensor, scale: float = 1.0) -> Tensor:
    to = torch.empty_like(x)
    kernel("add", "iifppp")(x.dtype is torch.bfloat16, x.numel(), scale, x.data_ptr(), y.data_ptr(), to.data_ptr())
    return to
