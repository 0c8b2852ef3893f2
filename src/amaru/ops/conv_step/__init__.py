"""Some tokens of a causal convolution for each of many sequences, whose states stay in place."""

import torch
from torch import Tensor

from amaru.errors import ConfigError
from amaru.ops.backends import Backend, Op
from amaru.ops.conv_step import composed, native
from amaru.ops.native import lacks


def conv_step(x: Tensor, conv: Tensor, slots: Tensor, fresh: Tensor, weight: Tensor, bias: Tensor, bounds: Tensor) -> Tensor:
    """What `causal_conv1d` makes of the next tokens of each sequence, SiLU included.

    >>> x = conv_step(x, state["conv"], slots, fresh, conv1d.weight, conv1d.bias, cu_seqlens)

    x [T, rows], weight [rows, 1, taps], bias [rows]; conv [slots, rows, taps - 1] is the pool, of which the rows `slots` [S] int64, all
    different, are read and written in place; a sequence that is `fresh` [S] bool starts from zero. bounds [S + 1] int64 say which tokens
    are whose. Returns [T, rows] in x's dtype.
    Raises `ConfigError` for shapes that do not fit and slots that are not there, `BackendError` if a forced backend refuses.
    """
    if weight.shape != (x.shape[1], 1, conv.shape[2] + 1) or conv.shape[1] != x.shape[1] or not len(slots) == len(fresh) == len(bounds) - 1:
        raise ConfigError(
            f"A step takes x [T, rows], conv [slots, rows, taps - 1] and weight [rows, 1, taps], a slot for each sequence; got "
            f"{list(x.shape)}, {list(conv.shape)}, {list(weight.shape)} and {len(slots)} slots for {len(bounds) - 1} sequences."
        )
    if CONV_STEP.lean and native.refuses(x, conv, slots, fresh, weight, bias, bounds) is None:
        return native.conv_step(x, conv, slots, fresh, weight, bias, bounds)
    return CONV_STEP(x, conv, slots, fresh, weight, bias, bounds)


def _sample(dtype: torch.dtype) -> tuple[tuple, dict]:
    x, conv = torch.zeros(1, 8, dtype=dtype), torch.zeros(1, 8, 3, dtype=dtype)
    return (x, conv, torch.tensor([0]), torch.tensor([True]), torch.zeros(8, 1, 4), torch.zeros(8), torch.tensor([0, 1])), {}


CONV_STEP = Op(
    "conv_step", _sample, Backend("native", native.conv_step, native.refuses, lacks), Backend("composed", composed.conv_step)
)
