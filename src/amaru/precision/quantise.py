"""A decoder whose projections hold codes; norms, convolutions, the scan's parameters, routers and embeddings stay as they are."""

from typing import NamedTuple

import torch
from torch import Tensor

from amaru.errors import ConfigError
from amaru.models.decoder import Decoder
from amaru.models.quantised import place_codes, quantised
from amaru.ops.quantised_linear import Encoding
from amaru.precision.encode import encode
from amaru.precision.scheme import Scheme


class Quantised(NamedTuple):
    """One projection: the name of its weight, what it became, and the norm of what changed over the norm of the weight."""

    name: str
    encoding: Encoding
    error: float


@torch.no_grad()
def quantise(decoder: Decoder, scheme: Scheme) -> list[Quantised]:
    """Give the projections of a decoder codes for weights, in place.

    >>> quantise(decoder, Scheme(to="int4"))[0].error

    Returns what was changed, in the order of the config. Raises `ConfigError` for a decoder that holds codes already.
    """
    if quantised(decoder):
        raise ConfigError("This decoder is quantised already; quantise the one it was made from.")
    there = dict(decoder.named_parameters())
    if hidden := [name for name in scheme.encodings(decoder.config) if name not in there]:
        raise ConfigError(f"{hidden[0]} is hidden by an adapter; quantise first and load the adapter then, or fold it in before.")
    rows = []
    for name, encoding in scheme.encodings(decoder.config).items():
        weight = decoder.get_parameter(name)
        place_codes(decoder, name, *encode(weight, encoding), weight.shape[-1])
        rows.append(Quantised(name, encoding, _error(quantised(decoder)[name].weight, weight)))
    return rows


def _error(found: Tensor, weight: Tensor) -> float:
    return float((found - weight).norm() / weight.float().norm().clamp_min(1e-30))
