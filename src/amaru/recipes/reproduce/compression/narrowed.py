"""A parent with one axis of its layers narrowed and everything else as it was."""

from dataclasses import replace

from amaru.compress.candidate import Candidate
from amaru.models import cost
from amaru.models.decoder import DecoderConfig
from amaru.nn.layer import LayerConfig


def narrowed(parent: DecoderConfig, axis: str, share: float) -> Candidate:
    """`narrowed(config, "head", 0.5)`: every layer that has the axis keeps that share of it."""
    layers = tuple(_layer(layer, axis, share) for layer in parent.layers)
    config = replace(parent, layers=layers)  # type: ignore[arg-type]
    memory = cost.memory(config, cost.Workload()).total
    return Candidate(layers=tuple(range(len(layers))), config=config, parameters=cost.parameters(config), memory=memory)


def _layer(layer: LayerConfig, axis: str, share: float) -> LayerConfig:
    sizes = {name: each.size for name, each in layer.axes().items()}
    return layer.resized(sizes | {axis: max(1, round(share * sizes[axis]))}) if axis in sizes else layer
