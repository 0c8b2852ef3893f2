"""The step compiled for the CPU: the state of every sequence is read once and written once, where it lies (native/selective_step.cpp)."""

import ctypes

import torch
from torch import Tensor

from amaru.errors import ConfigError
from amaru.ops.native import kernel, short
from amaru.ops.selective_step.inputs import Inputs

LARGEST_STATE = 256  # as in native/selective_step.cpp
SERVED = (torch.bfloat16, torch.float32)
NINE = ctypes.c_int64 * 9


def refuses(
    inputs: Inputs, ssm: Tensor, slots: Tensor, fresh: Tensor, dt_bias: Tensor, A_log: Tensor, D: Tensor, bounds: Tensor
) -> str | None:
    dtype = inputs.x.dtype
    if not inputs.x.is_cpu or dtype not in SERVED or ssm.dtype not in SERVED or any(each.dtype is not dtype for each in inputs):
        return f"serves float32 and bfloat16 on the CPU, got {short(dtype)} with {short(ssm.dtype)} states on {inputs.x.device.type}"
    if any(each.dtype is not torch.float32 or not each.is_contiguous() for each in (dt_bias, A_log, D)):
        return f"needs dt_bias, A_log and D in float32, got {short(A_log.dtype)}"
    if A_log.shape[1] > LARGEST_STATE:
        return f"serves up to {LARGEST_STATE} states, got {A_log.shape[1]}"
    if torch.is_grad_enabled() and (inputs.x.requires_grad or D.requires_grad):
        return "records no gradients"
    if not ssm.is_contiguous() or any(each.stride(1) != 1 for each in inputs):
        return "needs contiguous states"
    return None


def selective_step(
    inputs: Inputs, ssm: Tensor, slots: Tensor, fresh: Tensor, dt_bias: Tensor, A_log: Tensor, D: Tensor, bounds: Tensor
) -> Tensor:
    out = inputs.x.new_empty(inputs.x.shape)
    wrong = kernel("selective_step", "ii" + "p" * 14 + "i", returns=True)(
        inputs.x.dtype is torch.bfloat16,
        ssm.dtype is torch.bfloat16,
        NINE(len(slots), *A_log.shape, *(each.stride(0) for each in inputs), len(ssm)),
        bounds.data_ptr(),
        *(each.data_ptr() for each in inputs),
        ssm.data_ptr(),
        slots.data_ptr(),
        fresh.data_ptr(),
        dt_bias.data_ptr(),
        A_log.data_ptr(),
        D.data_ptr(),
        out.data_ptr(),
        torch.get_num_threads(),
    )
    if wrong >= 0:
        raise ConfigError(f"Sequence {wrong} of the batch has slot {int(slots[wrong])}; the pool has slots 0 to {len(ssm) - 1}.")
    return out
