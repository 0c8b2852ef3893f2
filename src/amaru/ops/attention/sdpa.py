"""Attention by torch's fused kernel, which never holds all scores and keeps its softmax in at least float32."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from amaru.ops.arguments import at_least_fp32, sequence_lengths


def attention(q: Tensor, keys: Sequence[Tensor], values: Sequence[Tensor], *, cu_seqlens: Tensor, scale: float) -> Tensor:
    parts = zip(q.split(sequence_lengths(cu_seqlens, len(q))), keys, values, strict=True)
    return torch.cat([_one_sequence(queries, k, v, scale) for queries, k, v in parts])


def _one_sequence(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """q [n, heads, qk], k and v [m, kv_heads, channels], n <= m, aligned at the end."""
    (n, heads, _), m = q.shape, len(k)
    if n == 0:
        return q.new_zeros(0, heads, v.shape[2])
    # torch aligns `is_causal` at the start, so it serves only n == m; a single query sees everything.
    mask = torch.ones(n, m, dtype=torch.bool, device=q.device).tril(m - n) if 1 < n < m else None
    batched = (tensor.transpose(0, 1)[None].to(_computed_in(tensor)) for tensor in (q, k, v))
    y = scaled_dot_product_attention(*batched, attn_mask=mask, is_causal=n == m, scale=scale, enable_gqa=heads != k.shape[1])
    return y[0].transpose(0, 1).to(q.dtype)


def _computed_in(tensor: Tensor) -> torch.dtype:
    """On a CPU at least float32: torch's bf16 kernel there keeps compiled code for every length it meets (megabytes each)."""
    return tensor.dtype if tensor.is_cuda else at_least_fp32(tensor.dtype)
