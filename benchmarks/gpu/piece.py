"""What a piece is: a function of the machine's ceilings that gives rows of the table, or says what it lacks."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from measure import TINY, Ceilings, rounded

from amaru.models.decoder import DecoderConfig
from amaru.models.families import config_of
from amaru.nn.attention import Attention
from amaru.nn.mamba2 import Mamba2
from amaru.nn.mlp import MLP

Row = dict[str, Any]
Piece = Callable[[Ceilings], list[Row]]


class Lacking(Exception):
    """What a piece needs is not on this machine."""


def shape(name: str) -> DecoderConfig:
    """A published shape; without a GPU a tiny one of its kind."""
    config = config_of(name)
    if not TINY:
        return config
    small = {"mamba2": Mamba2(heads=4, channels=16, groups=2, state=16), "mlp": MLP(ffn=64)}
    layers = [small.get(layer.kind) or Attention(query_heads=4, kv_heads=2, channels=16) for layer in config.layers[:8]]
    return replace(config, vocab=256, hidden=64, layers=tuple(layers))  # type: ignore[type-var]


def row(what: str, value: float, unit: str, share: float | None = None, target: float | None = None) -> Row:
    """`share` of what the machine can do, or the ratio that `target` speaks of."""
    return {"what": what, "value": rounded(value), "unit": unit, "share": None if share is None else rounded(share), "target": target}
