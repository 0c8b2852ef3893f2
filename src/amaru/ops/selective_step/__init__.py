"""Some tokens of Mamba-1 for each of many sequences: step sizes, scan and gate in one pass over states that stay in place."""

import torch
from torch import Tensor

from amaru.errors import ConfigError
from amaru.ops.backends import Backend, Op
from amaru.ops.native import lacks
from amaru.ops.selective_step import composed, native
from amaru.ops.selective_step.inputs import Inputs

__all__ = ["Inputs", "selective_step"]


def selective_step(
    inputs: Inputs, ssm: Tensor, slots: Tensor, fresh: Tensor, dt_bias: Tensor, A_log: Tensor, D: Tensor, bounds: Tensor
) -> Tensor:
    """selective_scan(x, softplus(dt + dt_bias), -exp(A_log), B, C, D) * silu(gate) of the next tokens of each sequence.

    >>> y = selective_step(Inputs(x, dt, B, C, gate), state["ssm"], slots, fresh, dt_bias, A_log, D, cu_seqlens)

    ssm [slots, inner, state] is the pool, of which the rows `slots` [S] int64, all different, are read and written in place; a sequence
    that is `fresh` [S] bool starts from zero. dt_bias, D [inner] and A_log [inner, state] are float32; bounds [S + 1] int64 say which
    tokens are whose. Everything is computed in at least float32; states may be stored in bfloat16.
    Returns [T, inner] in x's dtype.
    Raises `ConfigError` for shapes that do not fit and slots that are not there, `BackendError` if a forced backend refuses.
    """
    (_, inner), state = inputs.x.shape, A_log.shape[1]
    fits = inputs.dt.shape == inputs.gate.shape == inputs.x.shape and inputs.B.shape == inputs.C.shape == (len(inputs.x), state)
    if not fits or ssm.shape[1:] != (inner, state) or not len(slots) == len(fresh) == len(bounds) - 1:
        raise ConfigError(
            f"A step takes x, dt and gate [T, inner], B and C [T, state] and ssm [slots, inner, state], a slot for each sequence; got "
            f"{', '.join(str(list(each.shape)) for each in (*inputs, ssm))} and {len(slots)} slots for {len(bounds) - 1} sequences."
        )
    if SELECTIVE_STEP.lean and native.refuses(inputs, ssm, slots, fresh, dt_bias, A_log, D, bounds) is None:
        return native.selective_step(inputs, ssm, slots, fresh, dt_bias, A_log, D, bounds)
    return SELECTIVE_STEP(inputs, ssm, slots, fresh, dt_bias, A_log, D, bounds)


def _sample(dtype: torch.dtype) -> tuple[tuple, dict]:
    inner, state = 8, 4
    wide, narrow, one = torch.zeros(1, inner, dtype=dtype), torch.zeros(1, state, dtype=dtype), torch.ones(inner)
    given = Inputs(wide, wide, narrow, narrow, wide), torch.zeros(1, inner, state), torch.tensor([0]), torch.tensor([True])
    return (*given, one, torch.zeros(inner, state), one, torch.tensor([0, 1])), {}


SELECTIVE_STEP = Op(
    "selective_step",
    _sample,
    Backend("native", native.selective_step, native.refuses, lacks),
    Backend("composed", composed.selective_step),
)
