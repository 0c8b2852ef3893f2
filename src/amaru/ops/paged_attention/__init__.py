"""Attention over keys and values that lie in pages: what a sequence with state reads, however its cache is spread."""

import torch
from torch import Tensor

from amaru.errors import ConfigError
from amaru.ops.arguments import sequence_lengths
from amaru.ops.backends import Backend, Op
from amaru.ops.exactness import unless_exact
from amaru.ops.native import lacks
from amaru.ops.paged_attention import gathered, native, prompt, triton
from amaru.ops.paged_attention.narrow import NARROW, narrowed
from amaru.ops.triton import lacks as lacks_triton

__all__ = ["NARROW", "narrowed", "paged_attention"]


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
    """softmax(scale * q kᵀ) v of each sequence over the places that its pages hold.

    >>> paged_attention(q, state["keys"], state["values"], table[slots], cu_seqlens=cu_seqlens, lengths=ends, scale=channels**-0.5)

    q [T, heads, qk], the newest places of S sequences; keys and values [pages, page, kv_heads, channels] for everyone.
    pages [S, n]: place p of a sequence is row p % page of its page p // page; entries behind its last place, and those that a
    window no longer reaches, may hold any number. lengths [S]: places of each sequence, those of q included.
    window and sinks as in `attention`. Keys and values that are `narrowed` come with their scales [pages, page, kv_heads].
    Returns [T, heads, v]. Inside `exact()` a query has the same bits however many come with it.
    Raises `ConfigError` for shapes that do not fit, `BackendError` if a forced backend refuses.
    """
    new = _check(q, keys, values, pages, cu_seqlens, lengths)
    asked = {"scale": scale, "window": window, "sinks": sinks, "scales": scales}
    short = next((index for index, count in enumerate(new) if count > native.MOST_QUERIES), len(new))
    if short == len(new) and PAGED_ATTENTION.lean:
        refused = native.refuses(q, keys, values, pages, cu_seqlens=cu_seqlens, lengths=lengths, **asked)
        if refused is None:
            return native.paged_attention(q, keys, values, pages, cu_seqlens=cu_seqlens, lengths=lengths, **asked)
    if short in (0, len(new)):
        return PAGED_ATTENTION(q, keys, values, pages, cu_seqlens=cu_seqlens, lengths=lengths, **asked)
    # Those that decode come first, and each kind has its backend.
    tokens = sum(new[:short])
    parts = (
        PAGED_ATTENTION(q[:tokens], keys, values, pages[:short], cu_seqlens=cu_seqlens[: short + 1], lengths=lengths[:short], **asked),
        PAGED_ATTENTION(
            q[tokens:], keys, values, pages[short:], cu_seqlens=cu_seqlens[short:] - tokens, lengths=lengths[short:], **asked
        ),
    )
    return torch.cat(parts)


def _check(q: Tensor, keys: Tensor, values: Tensor, pages: Tensor, cu_seqlens: Tensor, lengths: Tensor) -> list[int]:
    """How many queries each sequence has."""
    new = sequence_lengths(cu_seqlens, len(q))
    count = len(new)
    ends = lengths.tolist() if lengths.is_cpu else new  # a GPU would have to be waited for
    if keys.dim() != 4 or keys.shape[:3] != values.shape[:3] or keys.shape[3] != q.shape[2] or q.shape[1] % keys.shape[2]:
        raise ConfigError(
            f"keys and values are [pages, page, kv_heads, channels] for queries {list(q.shape)}; got {list(keys.shape)} and "
            f"{list(values.shape)}."
        )
    room = pages.shape[1] * keys.shape[1]
    fits = len(pages) == len(lengths) == count and all(queries <= end <= room for queries, end in zip(new, ends, strict=True))
    if not fits:
        raise ConfigError(
            f"{count} sequences need pages for their lengths, of which their queries are part; got lengths {ends}, queries {new} and "
            f"{list(pages.shape)} pages of {keys.shape[1]}."
        )
    return new


def _sample(dtype: torch.dtype) -> tuple[tuple, dict]:
    q, pool = torch.zeros(2, 4, 16, dtype=dtype), torch.zeros(2, 4, 2, 16, dtype=dtype)
    asked = {"cu_seqlens": torch.tensor([0, 2]), "lengths": torch.tensor([2]), "scale": 1.0}
    return (q, pool, pool, torch.tensor([[1]])), asked


PAGED_ATTENTION = Op(
    "paged_attention",
    _sample,
    Backend("native", native.paged_attention, native.refuses, lacks),
    Backend("triton", triton.paged_attention, triton.refuses, lacks_triton),
    Backend("prompt", prompt.paged_attention, prompt.refuses, prompt.lacks_instructions),
    Backend("gathered", gathered.paged_attention, unless_exact),
)
