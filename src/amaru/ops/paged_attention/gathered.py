"""The pages of each sequence put in a row, then attention as everywhere: simple, and the oracle of what reads pages in place."""

from typing import Any

from torch import Tensor

from amaru.ops.attention import attention


def paged_attention(
    q: Tensor, keys: Tensor, values: Tensor, pages: Tensor, *, cu_seqlens: Tensor, lengths: Tensor, **asked: Any
) -> Tensor:
    ends = lengths.tolist()
    rows = [[_row(pool, table, end).to(q.dtype) for table, end in zip(pages, ends, strict=True)] for pool in (keys, values)]
    return attention(q, *rows, cu_seqlens=cu_seqlens, **asked)


def _row(pool: Tensor, table: Tensor, end: int) -> Tensor:
    """[end, kv_heads, channels]: a sequence's places in order; a page that was given away reads as any other."""
    needed = table[: -(-end // pool.shape[1])].clamp(0, len(pool) - 1)
    return pool[needed].flatten(0, 1)[:end]
