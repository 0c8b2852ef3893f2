"""Causal attention with grouped queries, every sequence by itself; softmax in at least float32."""

from collections.abc import Sequence

import torch
from torch import Tensor

from amaru.errors import ConfigError
from amaru.ops.arguments import sequence_lengths
from amaru.ops.attention import reference, sdpa
from amaru.ops.backends import Backend, Op


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
    """softmax(scale * q kᵀ) v over what each query may see.

    >>> attention(q, k.split(lengths), v.split(lengths), cu_seqlens=cu_seqlens, scale=channels**-0.5)

    q [T, heads, qk]; keys and values hold one tensor [n_s, kv_heads, qk or v] per sequence, all it has seen so far,
    the newest last: query i of n stands at place n_s - n + i and sees no later key. Query head j reads kv head
    j // (heads / kv_heads).

    With a `window` the query at place p sees itself, the `window` keys before it, and the first `sinks` keys of its
    sequence (the meta tokens of Hymba, https://arxiv.org/abs/2411.13676): key j if p - j <= window or j < sinks.

    Returns [T, heads, v]. Raises `ConfigError` for shapes that do not fit, `BackendError` if a forced backend refuses.
    """
    if (window is not None and window < 0) or sinks < 0:
        raise ConfigError(f"attention takes a window of 0 keys or more, or None for all, and 0 sinks or more; got {window} and {sinks}.")
    lengths = sequence_lengths(cu_seqlens, len(q))
    if not len(lengths) == len(keys) == len(values):
        raise ConfigError(f"attention needs keys and values for {len(lengths)} sequences; got {len(keys)} and {len(values)}.")
    for length, k, v in zip(lengths, keys, values, strict=True):
        if len(k) < length or k.shape[:2] != v.shape[:2] or k.shape[2] != q.shape[2] or q.shape[1] % k.shape[1]:
            raise ConfigError(
                f"{length} queries {list(q.shape[1:])} need at least as many keys and values of the same channels and a divisor "
                f"of the heads; got {list(k.shape)} and {list(v.shape)}."
            )
    return ATTENTION(q, keys, values, cu_seqlens=cu_seqlens, scale=scale, window=window, sinks=sinks)


def _sample(dtype: torch.dtype) -> tuple[tuple, dict]:
    q, k = torch.zeros(2, 4, 8, dtype=dtype), torch.zeros(2, 2, 8, dtype=dtype)
    return (q, [k], [k]), {"cu_seqlens": torch.tensor([0, 2]), "scale": 1.0}


ATTENTION = Op("attention", _sample, Backend("sdpa", sdpa.attention), Backend("reference", reference.attention))
