"""The activation compiled for the CPU: one pass, without gradients (native/rms_norm.cpp)."""

import torch
from torch import Tensor

from amaru.ops.native import kernel, short

SERVED = (torch.bfloat16, torch.float32)


def refuses(x: Tensor) -> str | None:
    if not x.is_cpu or x.dtype not in SERVED:
        return f"serves float32 and bfloat16 on the CPU, got {short(x.dtype)} on {x.device.type}"
    if torch.is_grad_enabled() and x.requires_grad:
        return "records no gradients"
    return None


def squared_relu(x: Tensor) -> Tensor:
    x = x.contiguous()
    y = torch.empty_like(x)
    kernel("squared_relu", "iippi")(x.dtype is torch.bfloat16, x.numel(), x.data_ptr(), y.data_ptr(), torch.get_num_threads())
    return y
