"""The scan as matrix products over chunks, in torch: chunks restart at every boundary, the state is carried between them."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from amaru.ops.arguments import at_least_fp32, sequence_lengths


def ssd(
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
    chunk_size: int = 128,
) -> tuple[Tensor, Tensor | None]:
    lengths = sequence_lengths(cu_seqlens, len(x))
    dtype = at_least_fp32(x.dtype, dt.dtype)
    dt, A, D = dt.to(dtype), A.to(dtype), D.to(dtype)
    if initial_states is None:
        initial_states = x.new_zeros(len(lengths), *x.shape[1:], B.shape[2], dtype=dtype)
    states = initial_states.to(dtype)
    scan = _one_token_each if all(length == 1 for length in lengths) else _scan
    y, states = scan(x, dt, A, B, C, states, lengths, chunk_size)
    y = (y + D[:, None] * x).to(x.dtype)
    return y, states if return_states else None


def _one_token_each(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, states: Tensor, lengths: list[int], chunk_size: int
) -> tuple[Tensor, Tensor]:
    """Decoding: the recurrence itself, all sequences at once."""
    heads_per_group = x.shape[1] // B.shape[1]
    grouped = states.unflatten(1, (-1, heads_per_group))  # [S, groups, heads per group, channels, state]
    decay = torch.exp(dt * A).view(*grouped.shape[:3], 1, 1)
    xdt = (x * dt[..., None]).view(*grouped.shape[:4], 1)
    grouped = decay * grouped + xdt * B[:, :, None, None, :].to(xdt.dtype)
    y = grouped @ C[:, :, None, :, None].to(xdt.dtype)
    return y.view(x.shape), grouped.flatten(1, 2)


def _scan(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, states: Tensor, lengths: list[int], chunk_size: int
) -> tuple[Tensor, Tensor]:
    """Chunk after chunk. For the backward pass only the states between chunks are kept; the rest is computed again."""
    sizes = list(chunk_lengths(lengths, chunk_size))
    flat = [size for sequence in sizes for size in sequence]
    chunks = zip(*(tensor.split(flat) for tensor in (x, dt, B, C)), strict=True)
    outputs, final = [], []
    for sequence, h in zip(sizes, states.unbind(), strict=True):
        for _ in sequence:
            x_chunk, dt_chunk, B_chunk, C_chunk = next(chunks)
            if torch.is_grad_enabled():
                y, h = checkpoint(_chunk, x_chunk, dt_chunk, A, B_chunk, C_chunk, h, use_reentrant=False, preserve_rng_state=False)
            else:
                y, h = _chunk(x_chunk, dt_chunk, A, B_chunk, C_chunk, h)
            outputs.append(y)
        final.append(h)
    return torch.cat(outputs) if outputs else x, torch.stack(final)


def chunk_lengths(lengths: list[int], chunk_size: int) -> Iterator[list[int]]:
    """`chunk_lengths([5, 0, 2], 4)` gives `[4, 1]`, `[]`, `[2]`: a chunk never spans two sequences."""
    for length in lengths:
        yield [min(chunk_size, length - start) for start in range(0, length, chunk_size)]


def _chunk(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """One chunk of L tokens: x [L, heads, channels], dt [L, heads], B, C [L, groups, state], h the state before it."""
    (L, heads, channels), (groups, state), dtype = x.shape, B.shape[1:], h.dtype
    # The running sum of dt·A reaches -1e5 where neighbours differ by 1e-3: float32 would lose the difference.
    s = (dt * A).double().cumsum(0).T  # [heads, L]
    future = torch.ones(L, L, dtype=torch.bool, device=x.device).triu(1)
    decay = (s[:, :, None] - s[:, None, :]).to(dtype).masked_fill(future, -torch.inf).exp()  # [heads, to, from]
    since_start, until_end = s.to(dtype).exp(), (s[:, -1:] - s).to(dtype).exp()  # [heads, L]

    xdt = (x * dt[..., None]).transpose(0, 1)  # [heads, L, channels]
    B, C = B.to(dtype).transpose(0, 1), C.to(dtype).transpose(0, 1)  # [groups, L, state]
    scores = (C @ B.mT)[:, None] * decay.view(groups, -1, L, L)
    within = scores.view(heads, L, L) @ xdt  # [heads, L, channels]
    before = (h.view(groups, -1, state) @ C.mT).view(heads, channels, L).mT
    y = within + since_start[..., None] * before

    added = (xdt * until_end[..., None]).mT.reshape(groups, -1, L) @ B  # [groups, heads per group * channels, state]
    return y.transpose(0, 1), since_start[:, -1, None, None] * h + added.view(h.shape)
