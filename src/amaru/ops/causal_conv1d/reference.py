"""The convolution as a window that slides one token at a time: the oracle of the other backends."""

import torch
from torch import Tensor
from torch.nn.functional import silu as apply_silu

from amaru.ops.arguments import at_least_fp32, sequence_lengths


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    cu_seqlens: Tensor,
    initial_states: Tensor | None = None,
    return_states: bool = False,
    silu: bool = True,
) -> tuple[Tensor, Tensor | None]:
    dtype = at_least_fp32(x.dtype)
    outputs, states = [], []
    for sequence, part in enumerate(x.split(sequence_lengths(cu_seqlens, len(x)))):
        window = x.new_zeros(weight.shape[0], weight.shape[1] - 1) if initial_states is None else initial_states[sequence].to(x.dtype)
        for token in part:
            seen = torch.cat([window, token[:, None]], dim=1)  # [rows, taps], oldest first
            y = (seen.to(dtype) * weight.to(dtype)).sum(1) + bias.to(dtype)
            outputs.append(apply_silu(y) if silu else y)
            window = seen[:, 1:]
        states.append(window)
    y = torch.stack(outputs).to(x.dtype) if outputs else x.clone()
    return y, torch.stack(states) if return_states else None
