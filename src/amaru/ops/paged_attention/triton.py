"""Attention over pages on a CUDA GPU: every page is read where it lies (triton/paged_attention.py)."""

from typing import Any

import torch
from torch import Tensor

from amaru.ops.exactness import unless_exact
from amaru.ops.native import short
from amaru.ops.paged_attention.narrow import NARROW
from amaru.ops.triton import blocks, boundaries, kernels, launch, one_each, operands, power_of_two, refusal

QUERIES = 128  # of a program, where there are many
PROGRAMS = 512  # that few queries are worth: several for each multiprocessor
MOST_PARTS = 64  # of a sequence's pages
LEAST = 16  # what products of blocks ask for


def refuses(
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
) -> str | None:
    held = q.dtype if scales is None else NARROW
    if not keys.dtype == values.dtype == held:
        return f"needs keys and values in {short(held)}, got {short(keys.dtype)} and {short(values.dtype)}"
    if not all(pool.is_contiguous() for pool in (keys, values, *(scales or ()))):
        return "needs contiguous pools"
    if torch.is_grad_enabled() and (q.requires_grad or keys.requires_grad):
        return "records no gradients"
    return refusal(q) or unless_exact()


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
    tokens, heads, qk = q.shape
    _, page, kv_heads, v = values.shape
    q = q if q.stride(2) == 1 and q.stride(1) == qk else q.contiguous()
    held = q, keys, values, *(scales or (None, None)), pages.contiguous(), lengths
    asked = q.stride(0), pages.shape[1], scale, -1 if window is None else window, sinks
    shape = {"HEADS": heads, "KV_HEADS": kv_heads, "QK": qk, "V": v, "PAGE": page, "PLACE_BLOCK": power_of_two(page, LEAST)}
    shape |= {"QK_BLOCK": power_of_two(qk, LEAST), "V_BLOCK": power_of_two(v, LEAST), **operands(q.dtype)}
    out = q.new_empty(tokens, heads, v)
    if one_each(cu_seqlens):
        _few(held, asked, out, shape)
    else:
        pieces = blocks(cu_seqlens, QUERIES, q.device)
        given = *held, pieces, boundaries(cu_seqlens, q.device), out, *asked
        launch(kernels("paged_attention").many, (heads, len(pieces)), *given, QUERY_BLOCK=QUERIES, num_warps=8, **shape)
    return out


def _few(held: tuple[Tensor | None, ...], asked: tuple[Any, ...], out: Tensor, shape: dict[str, Any]) -> None:
    """A query of each sequence: parts of its pages at once, as many as fill the machine, then their sum."""
    sequences, heads, v = out.shape
    kv_heads, width = shape["KV_HEADS"], asked[1]
    parts = max(1, min(MOST_PARTS, width, PROGRAMS // max(1, sequences * kv_heads)))
    most, total = out.new_empty(2, sequences, heads, parts, dtype=torch.float32).unbind()
    acc = out.new_empty(sequences, heads, parts, v, dtype=torch.float32)
    block = power_of_two(heads // kv_heads, LEAST)
    launch(kernels("paged_attention").few, (kv_heads, sequences, parts), *held, most, total, acc, *asked, HEAD_BLOCK=block, **shape)
    sizes = {"V": v, "PART_BLOCK": power_of_two(parts), "V_BLOCK": power_of_two(v)}
    launch(kernels("paged_attention").together, (sequences * heads,), most, total, acc, out, parts, **sizes)
