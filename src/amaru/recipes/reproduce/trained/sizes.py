"""Stacks of one size: the width of the feed-forward layers, or the number of query heads where there are none, makes up the number."""

from dataclasses import replace

from amaru.errors import ConfigError
from amaru.models import cost
from amaru.models.decoder import DecoderConfig
from amaru.nn.attention import Attention
from amaru.nn.mlp import MLP


def as_large(config: DecoderConfig, wanted: int) -> DecoderConfig:
    """`as_large(transformer, cost.parameters(hybrid))`: all feed-forward layers as wide as comes nearest to so many parameters.

    Without such layers attention gets more query heads. Raises `ConfigError` where one unit of width is too much already.
    """

    def of(units: int) -> DecoderConfig:
        return replace(config, layers=tuple(_with(layer, units, has_mlp) for layer in config.layers))

    has_mlp = any(isinstance(layer, MLP) for layer in config.layers)
    one = cost.parameters(of(1))
    unit = cost.parameters(of(2)) - one
    if wanted < one or not unit:
        raise ConfigError(f"This stack has at least {one:,} parameters and cannot have {wanted:,}; give it fewer layers or less width.")
    return of(1 + round((wanted - one) / unit))


def _with(layer: object, units: int, has_mlp: bool) -> object:
    if isinstance(layer, MLP):
        return replace(layer, ffn=units)
    if isinstance(layer, Attention) and not has_mlp:
        return replace(layer, query_heads=layer.kv_heads * units)
    return layer
