"""Attention by torch's fused kernel, which never holds all scores and keeps its softmax in at least float32."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from amaru.ops.arguments import at_least_fp32, sequence_lengths

BLOCK = 256  # queries; the keys behind the window are skipped a block at a time


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
    parts = zip(q.split(sequence_lengths(cu_seqlens, len(q))), keys, values, strict=True)
    return torch.cat([_one_sequence(queries, k, v, scale, window, sinks) for queries, k, v in parts])


def _one_sequence(q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None, sinks: int) -> Tensor:
    """q [n, heads, qk], k and v [m, kv_heads, channels], n <= m, aligned at the end."""
    n, m = len(q), len(k)
    if n == 0:
        return q.new_zeros(0, q.shape[1], v.shape[2])
    if window is not None and m - 1 - sinks > window:  # the last query does not see the first key behind the sinks
        blocks = enumerate(q.split(BLOCK))
        return torch.cat([_windowed(block, k, v, scale, m - n + i * BLOCK, window, sinks) for i, block in blocks])
    # torch aligns `is_causal` at the start, so it serves only n == m; a single query sees everything.
    mask = torch.ones(n, m, dtype=torch.bool, device=q.device).tril(m - n) if 1 < n < m else None
    return _fused(q, k, v, scale, mask, is_causal=n == m)


def _windowed(q: Tensor, k: Tensor, v: Tensor, scale: float, first: int, window: int, sinks: int) -> Tensor:
    """A block of queries, the first one at place `first`, against the sinks and the window before it: no other key is read."""
    stop = first + len(q)
    begin = min(max(sinks, first - window), stop)
    sinks = min(sinks, begin)
    k, v = (torch.cat([each[:sinks], each[begin:stop]]) if begin > sinks else each[:stop] for each in (k, v))
    if len(q) == 1:
        return _fused(q, k, v, scale)
    query = torch.arange(first, stop, device=q.device)[:, None]
    place = torch.cat([torch.arange(sinks, device=q.device), torch.arange(begin, stop, device=q.device)])
    return _fused(q, k, v, scale, (place <= query) & ((query - place <= window) | (place < sinks)))


def _fused(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
    width = max(q.shape[2], v.shape[2])
    batched = (_batched(tensor, width) for tensor in (q, k, v))
    y = scaled_dot_product_attention(*batched, attn_mask=mask, is_causal=is_causal, scale=scale, enable_gqa=q.shape[1] != k.shape[1])
    return y[0, :, :, : v.shape[2]].transpose(0, 1).to(q.dtype)


def _batched(tensor: Tensor, width: int) -> Tensor:
    """[n, heads, channels] -> [1, heads, n, width], zeros behind: torch writes all scores out where v is not as wide as q and k."""
    if tensor.shape[2] < width:
        tensor = pad(tensor, (0, width - tensor.shape[2]))
    return tensor.transpose(0, 1)[None].to(_computed_in(tensor))


def _computed_in(tensor: Tensor) -> torch.dtype:
    """On a CPU at least float32: torch's bf16 kernel there keeps compiled code for every length it meets (megabytes each)."""
    return tensor.dtype if tensor.is_cuda else at_least_fp32(tensor.dtype)
