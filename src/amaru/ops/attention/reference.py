"""Attention with its scores written out: the oracle of the other backends."""

from collections.abc import Sequence

import torch
from torch import Tensor

from amaru.ops.arguments import at_least_fp32, sequence_lengths


def attention(
    q: Tensor,
    keys: Sequence[Tensor],
    values: Sequence[Tensor],
    *,
    cu_seqlens: Tensor,
    scale: float,
    window: int | None = None,
    sinks: int = 0,
) -> Tensor:
    dtype = at_least_fp32(q.dtype)
    outputs = []
    for queries, k, v in zip(q.split(sequence_lengths(cu_seqlens, len(q))), keys, values, strict=True):
        shared = q.shape[1] // k.shape[1]
        k, v = (each.to(dtype).repeat_interleave(shared, dim=1).transpose(0, 1) for each in (k, v))  # [heads, n, channels]
        scores = scale * (queries.to(dtype).transpose(0, 1) @ k.mT)
        place = torch.arange(k.shape[1], device=q.device)
        behind = place[k.shape[1] - len(queries) :, None] - place  # how far each key lies behind each query
        hidden = (behind < 0) if window is None else (behind < 0) | ((behind > window) & (place >= sinks))
        weights = scores.masked_fill(hidden, -torch.inf).softmax(-1)
        outputs.append((weights @ v).transpose(0, 1))
    return torch.cat(outputs).to(q.dtype)
