"""A decoder whose projections hold codes; norms, convolutions, the scan's parameters, routers, experts and embeddings stay as they are."""

from typing import NamedTuple

import torch
from torch import nn

from amaru.errors import ConfigError
from amaru.models.decoder import Decoder
from amaru.nn.linear import Linear, QuantisedLinear
from amaru.precision.encode import encode


class Quantised(NamedTuple):
    """One projection: its name, its bits, and the norm of what changed over the norm of the weight."""

    name: str
    bits: int
    error: float


@torch.no_grad()
def quantise(decoder: Decoder, bits: int, head_bits: int = 8) -> list[Quantised]:
    """Give every projection of a decoder a weight of 8 or 4 bits, in place; the head, unless it is the embedding, one of `head_bits`.

    >>> sum(row.bits == 4 for row in quantise(decoder, bits=4))

    Returns what was changed, in the order of the modules. Raises `ConfigError` for other bits, and if nothing is left to quantise.
    """
    found = {name: module for name, module in decoder.named_modules() if type(module) is Linear}  # a router is more than a Linear
    if decoder.config.tied:
        found.pop("head")
    if not found:
        raise ConfigError("This decoder has no projection in floating point; it is quantised already.")
    return [_replace(decoder, name, module, head_bits if name == "head" else bits) for name, module in found.items()]


def _replace(decoder: Decoder, name: str, module: Linear, bits: int) -> Quantised:
    codes, scales = encode(module.weight, bits)
    made = QuantisedLinear(codes, scales, module.weight.shape[1], None if module.bias is None else module.bias.detach())
    owner, _, last = name.rpartition(".")
    error = _error(made, module)
    setattr(decoder.get_submodule(owner), last, made)
    return Quantised(name, bits, error)


def _error(made: QuantisedLinear, module: nn.Module) -> float:
    weight = module.get_parameter("weight").float()
    return float((made.weight() - weight).norm() / weight.norm().clamp_min(1e-30))
