"""Attention with its scores written out: the oracle of the other backends."""

from collections.abc import Sequence

import torch
from torch import Tensor

from amaru.ops.arguments import at_least_fp32, sequence_lengths


def attention(q: Tensor, keys: Sequence[Tensor], values: Sequence[Tensor], *, cu_seqlens: Tensor, scale: float) -> Tensor:
    dtype = at_least_fp32(q.dtype)
    outputs = []
    for queries, k, v in zip(q.split(sequence_lengths(cu_seqlens, len(q))), keys, values, strict=True):
        shared = q.shape[1] // k.shape[1]
        k, v = (each.to(dtype).repeat_interleave(shared, dim=1).transpose(0, 1) for each in (k, v))  # [heads, n, channels]
        scores = scale * (queries.to(dtype).transpose(0, 1) @ k.mT)
        future = torch.ones_like(scores, dtype=torch.bool).triu(k.shape[1] - len(queries) + 1)
        weights = scores.masked_fill(future, -torch.inf).softmax(-1)
        outputs.append((weights @ v).transpose(0, 1))
    return torch.cat(outputs).to(q.dtype)
