"""The scan as the equation states it, one token after the other: the oracle of the other backends.

h_t = exp(dt_t A) ∘ h_{t-1} + dt_t x_t ⊗ B_t        h, A [inner, state]
y_t = h_t C_t + D x_t
"""

import torch
from torch import Tensor

from amaru.ops.arguments import at_least_fp32, sequence_lengths


def selective_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    *,
    cu_seqlens: Tensor,
    initial_states: Tensor | None = None,
    return_states: bool = False,
) -> tuple[Tensor, Tensor | None]:
    dtype = at_least_fp32(x.dtype, dt.dtype)
    X, dt, A, B, C, D = (tensor.to(dtype) for tensor in (x, dt, A, B, C, D))
    outputs, states = [], []
    start = 0
    for sequence, length in enumerate(sequence_lengths(cu_seqlens, len(x))):
        h = torch.zeros_like(A) if initial_states is None else initial_states[sequence].to(dtype)
        for t in range(start, start + length):
            h = torch.exp(dt[t][:, None] * A) * h + (dt[t] * X[t])[:, None] * B[t]
            outputs.append(h @ C[t] + D * X[t])
        states.append(h)
        start += length
    y = torch.stack(outputs).to(x.dtype) if outputs else x.clone()
    return y, torch.stack(states) if return_states else None
