"""The scan as the equation states it, one token after the other: the oracle of the other backends.

h_t = exp(dt_t A) h_{t-1} + dt_t x_t ⊗ B_t          h [heads, channels, state]
y_t = h_t C_t + D x_t                               head j reads B and C of group j // (heads / groups)
"""

import torch
from torch import Tensor

from amaru.ops.arguments import at_least_fp32, sequence_lengths


def ssd(
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
    chunk_size: int = 128,
) -> tuple[Tensor, Tensor | None]:
    del chunk_size  # the recurrence has no chunks
    heads, groups = x.shape[1], B.shape[1]
    dtype = at_least_fp32(x.dtype, dt.dtype)
    X, dt, A, D = x.to(dtype), dt.to(dtype), A.to(dtype), D.to(dtype)
    B, C = (matrix.to(dtype).repeat_interleave(heads // groups, dim=1) for matrix in (B, C))  # [T, heads, state]
    outputs, states = [], []
    start = 0
    for sequence, length in enumerate(sequence_lengths(cu_seqlens, len(x))):
        h = x.new_zeros(*x.shape[1:], B.shape[2], dtype=dtype) if initial_states is None else initial_states[sequence].to(dtype)
        for t in range(start, start + length):
            decay = torch.exp(dt[t] * A)[:, None, None]
            h = decay * h + (dt[t][:, None] * X[t])[:, :, None] * B[t][:, None, :]
            outputs.append((h * C[t][:, None, :]).sum(-1) + D[:, None] * X[t])
        states.append(h)
        start += length
    y = torch.stack(outputs).to(x.dtype) if outputs else x.clone()
    return y, torch.stack(states) if return_states else None
