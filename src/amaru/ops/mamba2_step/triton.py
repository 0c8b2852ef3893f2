"""The step on a CUDA GPU: states are read once and written once, where they lie (triton/mamba2_step.py)."""

import torch
from torch import Tensor

from amaru.ops.mamba2_step.weights import Weights
from amaru.ops.triton import boundaries, kernels, launch, one_each, power_of_two, refusal

CHANNELS_AT_ONCE = 32


def refuses(
    projected: Tensor, conv: Tensor, ssm: Tensor, slots: Tensor, fresh: Tensor, weights: Weights, bounds: Tensor | None = None
) -> str | None:
    if torch.is_grad_enabled() and (projected.requires_grad or weights.D.requires_grad):
        return "records no gradients"
    if not (conv.is_contiguous() and ssm.is_contiguous() and projected.stride(1) == 1):
        return "needs contiguous states"
    return refusal(projected, conv, ssm, *(each for each in weights if isinstance(each, Tensor)))


def mamba2_step(
    projected: Tensor, conv: Tensor, ssm: Tensor, slots: Tensor, fresh: Tensor, weights: Weights, bounds: Tensor | None = None
) -> Tensor:
    _, heads, channels, state = ssm.shape
    groups, taps, sequences = weights.groups, weights.conv_weight.shape[2], len(slots)
    bounds = None if bounds is None or one_each(bounds) else boundaries(bounds, projected.device)
    y = projected.new_empty(len(projected), heads * channels, dtype=torch.float32)
    out = torch.empty_like(y, dtype=projected.dtype)
    shape = {"HEADS": heads, "CHANNELS": channels, "GROUPS": groups, "STATE": state, "TAPS": taps, "ONE_EACH": bounds is None}
    shape["STATE_BLOCK"] = power_of_two(state)
    block = min(CHANNELS_AT_ONCE, power_of_two(channels))
    made_of = weights.conv_weight, weights.conv_bias, weights.dt_bias, weights.A_log, weights.D
    launch(
        kernels("mamba2_step").heads,
        (heads * -(-channels // block), sequences),
        *(projected, conv, ssm, slots, fresh, bounds, *made_of, y, projected.stride(0), *weights.time_step_limit),
        CHANNEL_BLOCK=block,
        **shape,
    )
    launch(
        kernels("mamba2_step").norm,
        (groups, sequences),
        *(projected, conv, slots, fresh, bounds, y, weights.norm_weight, out, projected.stride(0), weights.eps),
        WIDTH_BLOCK=power_of_two(heads * channels // groups),
        LAG_BLOCK=power_of_two(taps - 1),
        **shape,
    )
    return out
