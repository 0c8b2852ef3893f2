"""Which models Megatron-Core computes, and how it stores them; what it has no setting for is refused before anything is written."""

import math

from amaru.errors import CheckpointError
from amaru.models.decoder import DecoderConfig
from amaru.models.families import nemotron4, nemotron_h
from amaru.models.formats.megatron.layouts import Scheme
from amaru.nn.mamba2 import Mamba2
from amaru.nn.moe import MoE

TAPS = 4  # of the convolution, and
GATED_NORM_EPS = 1e-5  # of the gated norm: constants in Megatron's code, which no setting changes


def scheme_of(config: DecoderConfig) -> Scheme:
    """How Megatron stores this model; `CheckpointError` when none of its models computes it."""
    if nemotron_h.refuses(config) is None:
        for layer in config.layers:
            if isinstance(layer, Mamba2) and (layer.taps, layer.time_step_limit) != (TAPS, (0.0, math.inf)):
                raise CheckpointError(f"Megatron's Mamba layers have {TAPS} taps and no limit on dt; these are {layer.describe()}.")
            if isinstance(layer, MoE) and (why := _refused_experts(layer)):
                raise CheckpointError(f"Megatron's router {why}; these are {layer.describe()}.")
            if isinstance(layer, Mamba2) and config.norm_eps != GATED_NORM_EPS:
                raise CheckpointError(f"Megatron's gated norm has an epsilon of {GATED_NORM_EPS}; this model's is {config.norm_eps}.")
        return Scheme(hybrid=True, stacked=False)
    why = nemotron4.refuses(config)
    if why is None and config.layers[0].rope.scaling is None:  # type: ignore[union-attr]
        return Scheme(hybrid=False, stacked=True)
    raise CheckpointError(
        f"Megatron checkpoints are written for Nemotron-H and Nemotron-4; {nemotron_h.refuses(config)}, and {why or 'no scaled RoPE'}."
    )


def _refused_experts(moe: MoE) -> str | None:
    """Why Megatron's router chooses or weighs experts in another way."""
    if moe.normalised != (moe.top_k > 1):
        return "divides the weights of chosen experts by their sum if and only if they are several"
    if moe.groups > 1 and moe.top_k // moe.top_groups != 2:
        return "ranks groups by as many experts as each may give, here by their best two"
    return None
