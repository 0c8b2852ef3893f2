"""The step as the ops of longer sequences compose it: the oracle of the fused kernel, and what serves where there is none."""

import torch
import torch.nn.functional as F
from torch import Tensor

from amaru.ops.causal_conv1d import causal_conv1d
from amaru.ops.gated_rmsnorm import gated_rmsnorm
from amaru.ops.mamba2_step.weights import Weights
from amaru.ops.ssd import ssd


def mamba2_step(
    projected: Tensor, conv: Tensor, ssm: Tensor, slots: Tensor, fresh: Tensor, weights: Weights, bounds: Tensor | None = None
) -> Tensor:
    heads, channels, state = ssm.shape[1:]
    inner, width = heads * channels, weights.groups * state
    z, xBC, dt = projected.split([inner, inner + 2 * width, heads], dim=-1)
    bounds = torch.arange(len(projected) + 1) if bounds is None else bounds
    held = conv[slots].masked_fill(fresh[:, None, None], 0)
    xBC, held = causal_conv1d(
        xBC, weights.conv_weight.squeeze(1), weights.conv_bias, cu_seqlens=bounds, initial_states=held, return_states=True
    )
    assert held is not None
    conv[slots] = held.to(conv.dtype)
    x, B, C = xBC.split([inner, width, width], dim=-1)
    h = ssm[slots].masked_fill(fresh[:, None, None, None], 0)
    y, h = ssd(
        x.unflatten(-1, (heads, -1)),
        F.softplus(dt.to(weights.dt_bias.dtype) + weights.dt_bias).clamp(*weights.time_step_limit),
        -torch.exp(weights.A_log),
        B.unflatten(-1, (weights.groups, -1)),
        C.unflatten(-1, (weights.groups, -1)),
        weights.D,
        cu_seqlens=bounds,
        initial_states=h,
        return_states=True,
    )
    assert h is not None
    ssm[slots] = h.to(ssm.dtype)
    return gated_rmsnorm(y.flatten(-2), z, weights.norm_weight, groups=weights.groups, eps=weights.eps)
