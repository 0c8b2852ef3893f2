"""The short depthwise convolution in front of the scan, which sees only the past of its own sequence."""

import torch
from torch import Tensor

from amaru.errors import ConfigError
from amaru.ops.arguments import expect_shape, sequence_lengths
from amaru.ops.backends import Backend, Op
from amaru.ops.causal_conv1d import native, reference, shifted, triton
from amaru.ops.exactness import unless_exact
from amaru.ops.native import lacks
from amaru.ops.triton import lacks as lacks_triton


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    cu_seqlens: Tensor,
    initial_states: Tensor | None = None,
    return_states: bool = False,
    silu: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """y_t = silu(bias + sum over k of weight[:, taps - 1 - k] * x_{t-k}), k from 0 to taps - 1, inside each sequence.

    >>> y, states = causal_conv1d(x, weight, bias, cu_seqlens=torch.tensor([0, 5, 9]), return_states=True)

    x [T, rows]; weight [rows, taps], its last column meets the newest input; bias [rows]. `initial_states`
    [S, rows, taps - 1] are the inputs before each sequence, oldest first; zeros if None. Sums in at least float32.

    Returns y [T, rows] in x's dtype, and the last taps - 1 inputs of each sequence, as above and in x's dtype
    (reaching back into `initial_states` where a sequence is shorter), if `return_states`, else None.
    Raises `ConfigError` for shapes or boundaries that do not fit, `BackendError` if a forced backend refuses.
    """
    if x.dim() != 2 or weight.dim() != 2 or weight.shape[1] < 1:
        raise ConfigError(f"x is [T, rows] and weight [rows, taps]; got {list(x.shape)} and {list(weight.shape)}.")
    tokens, rows = x.shape
    taps = weight.shape[1]
    expect_shape("weight", weight, rows, taps)
    expect_shape("bias", bias, rows)
    sequences = len(sequence_lengths(cu_seqlens, tokens))
    if initial_states is not None:
        expect_shape("initial_states", initial_states, sequences, rows, taps - 1)
    return CONV(x, weight, bias, cu_seqlens=cu_seqlens, initial_states=initial_states, return_states=return_states, silu=silu)


def _sample(dtype: torch.dtype) -> tuple[tuple, dict]:
    return (torch.zeros(2, 4, dtype=dtype), torch.zeros(4, 4), torch.zeros(4)), {"cu_seqlens": torch.tensor([0, 2])}


CONV = Op(
    "causal_conv1d",
    _sample,
    Backend("native", native.causal_conv1d, native.refuses, lacks),
    Backend("triton", triton.causal_conv1d, triton.refuses, lacks_triton),
    Backend("shifted", shifted.causal_conv1d, unless_exact),
    Backend("reference", reference.causal_conv1d),
)
