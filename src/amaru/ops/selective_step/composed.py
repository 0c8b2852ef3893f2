"""The step as the ops of longer sequences compose it: the oracle of the kernel, and what serves where there is none."""

import torch
from torch import Tensor

from amaru.ops.pointwise import silu, softplus
from amaru.ops.selective_scan import selective_scan
from amaru.ops.selective_step.inputs import Inputs


def selective_step(
    inputs: Inputs, ssm: Tensor, slots: Tensor, fresh: Tensor, dt_bias: Tensor, A_log: Tensor, D: Tensor, bounds: Tensor
) -> Tensor:
    x, dt, B, C, gate = inputs
    h = ssm[slots].masked_fill(fresh[:, None, None], 0)
    step = softplus(dt.to(dt_bias.dtype) + dt_bias)
    y, h = selective_scan(x, step, -torch.exp(A_log), B, C, D, cu_seqlens=bounds, initial_states=h, return_states=True)
    assert h is not None
    ssm[slots] = h.to(ssm.dtype)
    return y * silu(gate)
