"""The pages of each sequence put in a row, then attention as everywhere: simple, and the oracle of what reads pages in place."""

import torch
from torch import Tensor

from amaru.ops.arguments import sequence_lengths
from amaru.ops.attention import attention
from amaru.ops.paged_attention.narrow import widened


def paged_attention(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    pages: Tensor,
    *,
    cu_seqlens: Tensor,
    lengths: Tensor,
    scale: float,
    window: int | None = None,
    sinks: int = 0,
    scales: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    spans = [
        (end, end if window is None else min(sinks, end), 0 if window is None else max(sinks, end - new - window))
        for end, new in zip(lengths.tolist(), sequence_lengths(cu_seqlens, len(q)), strict=True)
    ]

    def rows_of(pool: Tensor, their: Tensor | None) -> list[Tensor]:
        if their is None:
            return [_row(pool, *each).to(q.dtype) for each in places]
        return [widened(_row(pool, *each), _row(their, *each), q.dtype) for each in places]

    places = [(table, *span) for table, span in zip(pages, spans, strict=True)]
    rows = [rows_of(pool, their) for pool, their in zip((keys, values), scales or (None, None), strict=True)]
    return attention(q, *rows, cu_seqlens=cu_seqlens, scale=scale, window=window, sinks=sinks)


def _row(pool: Tensor, table: Tensor, end: int, sinks: int, begin: int) -> Tensor:
    """[places, kv_heads, channels]: the first `sinks` places and those from `begin` to `end`.

    What lies between is behind everyone's window; left out, it changes no distance that counts.
    """
    page = pool.shape[1]
    if begin <= sinks:
        return pool[table[: -(-end // page)]].flatten(0, 1)[:end]
    first = begin // page
    near = pool[table[first : -(-end // page)]].flatten(0, 1)[begin - first * page : end - first * page]
    return torch.cat([pool[table[: -(-sinks // page)]].flatten(0, 1)[:sinks], near])
