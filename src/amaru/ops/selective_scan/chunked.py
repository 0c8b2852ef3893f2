"""The scan in torch: decays and inputs of a chunk at once, then one fused step per token.

Doubling (log2 of the chunk's length in steps over the whole chunk) was two to five times slower on a CPU: each of its steps reads
and writes [chunk, inner, state], whereas the state of one token, [inner, state], stays in a cache.
"""

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from amaru.ops.arguments import at_least_fp32, sequence_lengths

CHUNK = 64  # tokens; what is recomputed at once in the backward pass


def selective_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    *,
    cu_seqlens: Tensor,
    initial_states: Tensor | None = None,
    return_states: bool = False,
) -> tuple[Tensor, Tensor | None]:
    lengths = sequence_lengths(cu_seqlens, len(x))
    dtype = at_least_fp32(x.dtype, dt.dtype)
    X, dt, A, B, C, D = (tensor.to(dtype) for tensor in (x, dt, A, B, C, D))
    states = A.new_zeros(len(lengths), *A.shape) if initial_states is None else initial_states.to(dtype)
    if all(length == 1 for length in lengths):
        y, states = _one_token_each(X, dt, A, B, C, states)
    else:
        y, states = _scan(X, dt, A, B, C, states, lengths)
    return (y + D * X).to(x.dtype), states if return_states else None


def _one_token_each(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
    """Decoding: the recurrence itself, all sequences at once."""
    states = torch.exp(dt[..., None] * A) * states + (dt * x)[..., None] * B[:, None]
    return (states @ C[..., None]).squeeze(-1), states


def _scan(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, states: Tensor, lengths: list[int]) -> tuple[Tensor, Tensor]:
    """Chunk after chunk. For the backward pass only the states between chunks are kept; the rest is computed again."""
    outputs, final = [], []
    for h, *sequence in zip(states.unbind(), *(tensor.split(lengths) for tensor in (x, dt, B, C)), strict=True):
        for x_chunk, dt_chunk, B_chunk, C_chunk in zip(*(tensor.split(CHUNK) for tensor in sequence), strict=True):
            if torch.is_grad_enabled():
                y, h = checkpoint(_chunk, x_chunk, dt_chunk, A, B_chunk, C_chunk, h, use_reentrant=False, preserve_rng_state=False)
            else:
                y, h = _chunk(x_chunk, dt_chunk, A, B_chunk, C_chunk, h)
            outputs.append(y)
        final.append(h)
    return torch.cat(outputs) if outputs else x, torch.stack(final)


def _chunk(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
    """x, dt [L, inner], B, C [L, state], L from 0 to CHUNK, and the state before them."""
    if not len(x):
        return x, before
    a = torch.exp(dt[..., None] * A)  # [L, inner, state]
    u = (dt * x)[..., None] * B[:, None]
    h = [before]
    for decay, added in zip(a.unbind(), u.unbind(), strict=True):
        h.append(torch.addcmul(added, decay, h[-1]))
    return (torch.stack(h[1:]) @ C[..., None]).squeeze(-1), h[-1]
