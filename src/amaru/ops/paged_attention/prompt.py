"""Many queries over pages in bfloat16, compiled for the CPU: matrix products and an online softmax (native/prompt_attention.cpp)."""

import torch
from torch import Tensor

from amaru.ops.exactness import unless_exact
from amaru.ops.native import kernel, lacks, short
from amaru.ops.paged_attention import native

LANES = 16


def lacks_instructions() -> str | None:
    return lacks() or (None if kernel("prompt_attention_serves", "", returns=True)() else "needs a CPU with AVX-512 BF16")


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
    if scales is not None:
        return "reads no keys and values of 8 bits"
    if not q.is_cpu or not q.dtype == keys.dtype == values.dtype == torch.bfloat16:
        return f"serves bfloat16 on the CPU, got {short(q.dtype)} and {short(keys.dtype)} on {q.device.type}"
    if keys.shape[3] % 2 or values.shape[3] % LANES:
        return f"needs an even width of keys and a multiple of {LANES} of values, got {keys.shape[3]} and {values.shape[3]}"
    if not (keys.is_contiguous() and values.is_contiguous()):
        return "needs contiguous pools"
    if torch.is_grad_enabled() and (q.requires_grad or keys.requires_grad):
        return "records no gradients"
    return unless_exact()


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
    asked = {"cu_seqlens": cu_seqlens, "lengths": lengths, "scale": scale, "window": window, "sinks": sinks}
    return native.run(kernel("prompt_attention", "pf" + "p" * 7 + "i", returns=True), q, keys, values, pages, **asked)
