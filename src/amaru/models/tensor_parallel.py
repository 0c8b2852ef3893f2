"""Tensor parallelism as counting sees it: what one of several devices holds follows from the axis that each layer names."""

from collections.abc import Iterable
from dataclasses import replace

from amaru.axes import Axes
from amaru.errors import ConfigError
from amaru.models.decoder import AnyLayer, DecoderConfig

MOST_DEVICES = 256  # as far as other counts are looked for when one does not divide


def network_axes(config: DecoderConfig, devices: int) -> Axes:
    """`vocab` as one of `devices` holds it, rounded up: engines pad the embedding so that it divides."""
    axes = config.axes()
    return axes | {"vocab": replace(axes["vocab"], size=-(-config.vocab // devices))}


def layer_axes(layer: AnyLayer, devices: int) -> Axes:
    """`layer_axes(Mamba2(..., groups=8), 8)["group"].size == 1`: the axes of a layer as one of `devices` holds them.

    Attention on more devices than it has KV heads: each keeps one of them, and a share of the queries that read it.
    Raises `ConfigError` when the layer does not divide.
    """
    axes = layer.axes()
    whole, query = axes[layer.sharded], axes.get("query")
    if whole.size % devices == 0:
        return axes | {whole.name: replace(whole, size=whole.size // devices)}
    copies = devices // whole.size
    if query and devices % whole.size == 0 and query.size % copies == 0:
        return axes | {whole.name: replace(whole, size=1), "query": replace(query, size=query.size // copies)}
    found = f"{whole.size} indices of '{whole.name}'" + (f" of {query.size} queries each" if query else "")
    raise ConfigError(f"a {layer.kind} layer has {found}, which {devices} devices cannot share evenly")


def check(config: DecoderConfig, devices: int) -> None:
    """Raises `ConfigError` for a number of devices that does not divide every layer; the sentence says which numbers do."""
    distinct = dict.fromkeys(config.layers)
    try:
        for layer in distinct:
            layer_axes(layer, devices)
    except ConfigError as error:
        would = ", ".join(str(count) for count in possible(distinct))
        raise ConfigError(f"Tensor parallelism over {devices}: {error}. {would} would do.") from None


def possible(layers: Iterable[AnyLayer]) -> list[int]:
    """Numbers of devices that divide all these layers, up to 256."""
    layers = list(layers)
    return [devices for devices in range(1, MOST_DEVICES + 1) if all(_divides(layer, devices) for layer in layers)]


def _divides(layer: AnyLayer, devices: int) -> bool:
    try:
        layer_axes(layer, devices)
    except ConfigError:
        return False
    return True
