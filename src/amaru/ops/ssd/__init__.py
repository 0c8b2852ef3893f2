"""The state-space scan of Mamba-2 (SSD, Dao and Gu 2024, https://arxiv.org/abs/2405.21060); README.md derives the chunked form."""

import torch
from torch import Tensor

from amaru.errors import ConfigError
from amaru.ops.arguments import expect_shape, sequence_lengths
from amaru.ops.backends import Backend, Op
from amaru.ops.native import lacks
from amaru.ops.ssd import chunked, native, reference, triton
from amaru.ops.triton import lacks as lacks_triton


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
    """Run h_t = exp(dt_t A) h_{t-1} + dt_t x_t ⊗ B_t and y_t = h_t C_t + D x_t over each sequence by itself.

    >>> y, states = ssd(x, dt, A, B, C, D, cu_seqlens=torch.tensor([0, 5, 9]), return_states=True)

    x [T, heads, channels]; dt [T, heads], positive, after softplus; A [heads], negative; B, C [T, groups, state];
    D [heads]; head j reads group j // (heads / groups). `cu_seqlens` [S+1] are the boundaries, which nothing crosses.
    `initial_states` [S, heads, channels, state], zeros if None. dt, A, D and states are at least float32.

    Returns y [T, heads, channels] in x's dtype, and the states after the last token of each sequence (at least
    float32) if `return_states`, else None. `chunk_size` sets how much is recomputed or multiplied at once, not the result.
    Raises `ConfigError` for shapes or boundaries that do not fit, `BackendError` if a forced backend refuses.
    """
    _check(x, dt, A, B, C, D, cu_seqlens, initial_states, chunk_size)
    return SSD(x, dt, A, B, C, D, cu_seqlens=cu_seqlens, initial_states=initial_states, return_states=return_states, chunk_size=chunk_size)


def _check(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, cu_seqlens: Tensor, initial_states: Tensor | None, chunk_size: int
) -> None:
    if x.dim() != 3 or B.dim() != 3:
        raise ConfigError(f"x is [T, heads, channels] and B is [T, groups, state]; got {list(x.shape)} and {list(B.shape)}.")
    tokens, heads, channels = x.shape
    groups, state = B.shape[1:]
    expect_shape("dt", dt, tokens, heads)
    expect_shape("A", A, heads)
    expect_shape("B", B, tokens, groups, state)
    expect_shape("C", C, tokens, groups, state)
    expect_shape("D", D, heads)
    sequences = len(sequence_lengths(cu_seqlens, tokens))
    if initial_states is not None:
        expect_shape("initial_states", initial_states, sequences, heads, channels, state)
    if heads % groups:
        raise ConfigError(f"heads must be a multiple of groups; got {heads} and {groups}.")
    if chunk_size < 1:
        raise ConfigError(f"chunk_size must be at least 1; got {chunk_size}.")


def _sample(dtype: torch.dtype) -> tuple[tuple, dict]:
    x, B = torch.zeros(2, 2, 4, dtype=dtype), torch.zeros(2, 1, 8, dtype=dtype)
    return (x, torch.ones(2, 2), -torch.ones(2), B, B, torch.ones(2)), {"cu_seqlens": torch.tensor([0, 2])}


SSD = Op(
    "ssd",
    _sample,
    Backend("native", native.ssd, native.refuses, lacks),
    Backend("triton", triton.ssd, triton.refuses, lacks_triton),
    Backend("chunked", chunked.ssd),
    Backend("reference", reference.ssd),
)
