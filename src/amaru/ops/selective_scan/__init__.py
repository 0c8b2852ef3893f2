"""The selective scan of Mamba-1 (Gu and Dao 2023, https://arxiv.org/abs/2312.00752): every channel has decays of its own."""

import torch
from torch import Tensor

from amaru.errors import ConfigError
from amaru.ops.arguments import expect_shape, sequence_lengths
from amaru.ops.backends import Backend, Op
from amaru.ops.exactness import unless_exact
from amaru.ops.native import lacks
from amaru.ops.selective_scan import chunked, native, reference, triton
from amaru.ops.triton import lacks as lacks_triton


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
    """Run h_t = exp(dt_t A) ∘ h_{t-1} + dt_t x_t ⊗ B_t and y_t = h_t C_t + D x_t over each sequence by itself.

    >>> y, states = selective_scan(x, dt, A, B, C, D, cu_seqlens=torch.tensor([0, 5, 9]), return_states=True)

    x [T, inner]; dt [T, inner], positive, after softplus; A [inner, state], negative; B, C [T, state], read by all
    channels; D [inner]. `cu_seqlens` [S+1] are the boundaries, which nothing crosses. `initial_states`
    [S, inner, state], zeros if None. dt, A, D and states are at least float32.

    Returns y [T, inner] in x's dtype, and the states after the last token of each sequence (at least float32) if
    `return_states`, else None. Inside `exact()` a token has the same bits however a sequence is cut.
    Raises `ConfigError` for shapes or boundaries that do not fit, `BackendError` if a forced backend refuses.
    """
    _check(x, dt, A, B, C, D, cu_seqlens, initial_states)
    return SELECTIVE_SCAN(x, dt, A, B, C, D, cu_seqlens=cu_seqlens, initial_states=initial_states, return_states=return_states)


def _check(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, cu_seqlens: Tensor, initial_states: Tensor | None
) -> None:
    if x.dim() != 2 or A.dim() != 2:
        raise ConfigError(f"x is [T, inner] and A is [inner, state]; got {list(x.shape)} and {list(A.shape)}.")
    (tokens, inner), state = x.shape, A.shape[1]
    expect_shape("dt", dt, tokens, inner)
    expect_shape("A", A, inner, state)
    expect_shape("B", B, tokens, state)
    expect_shape("C", C, tokens, state)
    expect_shape("D", D, inner)
    sequences = len(sequence_lengths(cu_seqlens, tokens))
    if initial_states is not None:
        expect_shape("initial_states", initial_states, sequences, inner, state)


def _sample(dtype: torch.dtype) -> tuple[tuple, dict]:
    x, B = torch.zeros(2, 8, dtype=dtype), torch.zeros(2, 4, dtype=dtype)
    return (x, torch.ones(2, 8), -torch.ones(8, 4), B, B, torch.ones(8)), {"cu_seqlens": torch.tensor([0, 2])}


SELECTIVE_SCAN = Op(
    "selective_scan",
    _sample,
    Backend("native", native.selective_scan, native.refuses, lacks),
    Backend("triton", triton.selective_scan, triton.refuses, lacks_triton),
    Backend("chunked", chunked.selective_scan, unless_exact),
    Backend("reference", reference.selective_scan),
)
