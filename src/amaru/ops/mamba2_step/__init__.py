"""Some tokens of Mamba-2 for each of many sequences: convolution, scan and gated norm in one pass over states that stay in place."""

import functools
import math

import torch
from torch import Tensor

from amaru.errors import ConfigError
from amaru.ops.arguments import sequence_lengths
from amaru.ops.backends import Backend, Op
from amaru.ops.exactness import unless_exact
from amaru.ops.mamba2_step import composed, native, triton
from amaru.ops.mamba2_step.weights import Weights
from amaru.ops.native import lacks
from amaru.ops.triton import lacks as lacks_triton

__all__ = ["Weights", "mamba2_step"]


def mamba2_step(
    projected: Tensor, conv: Tensor, ssm: Tensor, slots: Tensor, fresh: Tensor, weights: Weights, bounds: Tensor | None = None
) -> Tensor:
    """What `causal_conv1d`, `ssd` and `gated_rmsnorm` make of the next tokens of each sequence.

    >>> y = mamba2_step(in_proj(u), state["conv"], state["ssm"], slots, fresh, weights)                # a token of each
    >>> y = mamba2_step(in_proj(u), state["conv"], state["ssm"], slots, fresh, weights, cu_seqlens)

    projected [T, rows], its rows z | x | B | C | dt; conv [slots, rows of x, B and C, taps - 1] and ssm [slots, heads, channels,
    state] are the pool, of which the rows `slots` [S] int64, all different, are read and written in place; a sequence that is
    `fresh` [S] bool starts from zero. bounds [S + 1] int64 say which tokens are whose; None: one each. Everything is computed in at
    least float32; states may be stored in bfloat16. The native kernel gives a token the same bits however many come with it.

    Returns [T, heads * channels] in projected's dtype, ready for the output projection.
    Raises `ConfigError` for shapes that do not fit, `BackendError` if a forced backend refuses.
    """
    _check(projected, conv, ssm, slots, fresh, weights, bounds)
    if STEP.lean and native.refuses(projected, conv, ssm, slots, fresh, weights, bounds) is None:
        return native.mamba2_step(projected, conv, ssm, slots, fresh, weights, bounds)
    return STEP(projected, conv, ssm, slots, fresh, weights, bounds)


def _check(
    projected: Tensor, conv: Tensor, ssm: Tensor, slots: Tensor, fresh: Tensor, weights: Weights, bounds: Tensor | None
) -> None:
    _check_widths(projected.shape[1:], conv.shape, ssm.shape, weights.conv_weight.shape, weights.groups)
    count = len(projected) if bounds is None else len(sequence_lengths(bounds, len(projected)))
    if slots.dtype is not torch.int64 or fresh.dtype is not torch.bool or not len(slots) == len(fresh) == count:
        raise ConfigError(f"slots [S] are int64 and fresh [S] bool, for {count} sequences; got {slots.dtype} and {fresh.dtype}.")


@functools.lru_cache
def _check_widths(projected: torch.Size, conv: torch.Size, ssm: torch.Size, conv_weight: torch.Size, groups: int) -> None:
    """The same for every step of a layer, and remembered."""
    if len(projected) != 1 or len(conv) != 3 or len(ssm) != 4 or conv[0] != ssm[0] or ssm[1] % groups:
        raise ConfigError(
            f"A step takes projected [S, rows], conv [slots, rows, taps - 1] and ssm [slots, heads, channels, state], heads a multiple "
            f"of {groups} groups; got {['S', *projected]}, {list(conv)} and {list(ssm)}."
        )
    _, heads, channels, state = ssm
    conv_rows = heads * channels + 2 * groups * state
    if projected[0] != heads * channels + conv_rows + heads or conv[1] != conv_rows:
        raise ConfigError(
            f"{heads} heads x {channels} with {groups} groups of state {state} are {conv_rows} rows of the convolution and "
            f"{heads * channels + conv_rows + heads} of the projection; got {conv[1]} and {projected[0]}."
        )
    if tuple(conv_weight) != (conv_rows, 1, conv[2] + 1):
        raise ConfigError(f"conv_weight must have shape {[conv_rows, 1, conv[2] + 1]}; got {list(conv_weight)}.")


def _sample(dtype: torch.dtype) -> tuple[tuple, dict]:
    heads, channels, groups, state, taps = 2, 4, 1, 8, 4
    rows = heads * channels + 2 * groups * state
    one = torch.ones(heads)
    weights = Weights(torch.zeros(rows, 1, taps), torch.zeros(rows), one, one, one, torch.ones(8), groups, 1e-5, (0.0, math.inf))
    states = torch.zeros(1, rows, taps - 1, dtype=dtype), torch.zeros(1, heads, channels, state)
    return (torch.zeros(1, 8 + rows + heads, dtype=dtype), *states, torch.tensor([0]), torch.tensor([True]), weights), {}


STEP = Op(
    "mamba2_step",
    _sample,
    Backend("native", native.mamba2_step, native.refuses, lacks),
    Backend("triton", triton.mamba2_step, triton.refuses, lacks_triton),
    Backend("composed", composed.mamba2_step, unless_exact),
)
