"""Few queries over pages, compiled for the CPU: every key and value is read once, where it lies (native/paged_attention.cpp)."""

import ctypes
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from amaru.errors import ConfigError
from amaru.ops.exactness import is_exact
from amaru.ops.native import kernel, short
from amaru.ops.paged_attention.narrow import NARROW

MOST_QUERIES = 16  # of a sequence: more are worth a product of matrices
SERVED = (torch.bfloat16, torch.float32)
ELEVEN = ctypes.c_int64 * 11


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
    if not q.is_cpu or q.dtype not in SERVED or not keys.dtype == values.dtype == held:
        return f"serves float32 and bfloat16 of one kind on the CPU, got {short(q.dtype)} and {short(keys.dtype)} on {q.device.type}"
    if not all(pool.is_contiguous() for pool in (keys, values, *(scales or ()))):
        return "needs contiguous pools"
    if torch.is_grad_enabled() and (q.requires_grad or keys.requires_grad):
        return "records no gradients"
    if (most := _most_queries(cu_seqlens)) > MOST_QUERIES and not is_exact():
        return f"serves up to {MOST_QUERIES} queries of a sequence, got {most}"
    return None


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
    if _most_queries(cu_seqlens) > MOST_QUERIES:
        asked = {"scale": scale, "window": window, "sinks": sinks, "scales": scales}
        return torch.cat([paged_attention(*part, **where, **asked) for part, where in _parts(q, keys, values, pages, cu_seqlens, lengths)])
    asked = {"cu_seqlens": cu_seqlens, "lengths": lengths, "scale": scale, "window": window, "sinks": sinks}
    function = kernel("paged_attention", "ipppf" + "p" * 7 + "i", returns=True)
    powers = (None, None) if scales is None else (scales[0].data_ptr(), scales[1].data_ptr())
    return run(partial(function, q.dtype is torch.bfloat16, *powers), q, keys, values, pages, **asked)


def run(
    function: Callable[..., int],
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    pages: Tensor,
    *,
    cu_seqlens: Tensor,
    lengths: Tensor,
    scale: float,
    window: int | None,
    sinks: int,
) -> Tensor:
    """Give a kernel its sizes and tensors; it returns the first sequence whose pages are none, or -1."""
    heads, qk = q.shape[1:]
    if q.stride(2) != 1 or q.stride(1) != qk:
        q = q.contiguous()
    bounds, lengths, pages = (tensor.to(torch.int64).contiguous() for tensor in (cu_seqlens, lengths, pages))
    out = q.new_empty(len(q), heads, values.shape[3])
    sizes = ELEVEN(
        len(lengths),
        heads,
        keys.shape[2],
        qk,
        values.shape[3],
        keys.shape[1],
        len(keys),
        pages.shape[1],
        -1 if window is None else window,
        sinks,
        q.stride(0),
    )
    wrong = function(
        sizes, scale, *(tensor.data_ptr() for tensor in (bounds, lengths, pages, q, keys, values, out)), torch.get_num_threads()
    )
    if wrong >= 0:
        raise ConfigError(f"Sequence {wrong} of the batch needs pages that the pool of {len(keys)} does not have: {pages[wrong].tolist()}.")
    return out


def _parts(
    q: Tensor, keys: Tensor, values: Tensor, pages: Tensor, cu_seqlens: Tensor, lengths: Tensor
) -> Iterator[tuple[tuple[Tensor, ...], dict[str, Any]]]:
    """The arguments for at most `MOST_QUERIES` queries of one sequence at a time."""
    for index, (start, stop) in enumerate(pairwise(cu_seqlens.tolist())):
        for first in range(start, stop, MOST_QUERIES):
            last = min(first + MOST_QUERIES, stop)
            where = {"cu_seqlens": torch.tensor([0, last - first]), "lengths": lengths[index : index + 1] - (stop - last)}
            yield (q[first:last], keys, values, pages[index : index + 1]), where


def _most_queries(cu_seqlens: Tensor) -> int:
    return max((end - begin for begin, end in pairwise(cu_seqlens.tolist())), default=0)
