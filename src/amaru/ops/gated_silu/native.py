"""The gate compiled for the CPU: one pass, without gradients (native/gated_silu.cpp)."""

import torch
from torch import Tensor

from amaru.ops.native import kernel, short

SERVED = (torch.bfloat16, torch.float32)


def refuses(gate: Tensor, up: Tensor) -> str | None:
    if not gate.is_cpu or gate.dtype not in SERVED or up.dtype is not gate.dtype or gate.shape != up.shape:
        return f"serves float32 and bfloat16 of one shape on the CPU, got {short(gate.dtype)} and {short(up.dtype)} on {gate.device.type}"
    if not (gate.is_contiguous() and up.is_contiguous()):
        return "needs contiguous tensors"
    if torch.is_grad_enabled() and (gate.requires_grad or up.requires_grad):
        return "records no gradients"
    return None


def gated_silu(gate: Tensor, up: Tensor) -> Tensor:
    to = torch.empty_like(gate)
    kernel("gated_silu", "iipppi")(
        gate.dtype is torch.bfloat16, gate.numel(), gate.data_ptr(), up.data_ptr(), to.data_ptr(), torch.get_num_threads()
    )
    return to
