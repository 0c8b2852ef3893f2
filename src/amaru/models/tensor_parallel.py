"""Tensor parallelism from the axis that each layer names: what one of several devices holds, in sizes and in rows."""

from collections.abc import Iterable
from dataclasses import replace

from amaru.axes import Axes, Selections, keep, shard
from amaru.errors import ConfigError
from amaru.models.decoder import AnyLayer, DecoderConfig

MOST_DEVICES = 256  # as far as other counts are looked for when one does not divide


def network_axes(config: DecoderConfig, devices: int) -> Axes:
    """`vocab` as the first of `devices` holds it: the last holds less where it does not divide."""
    axes = config.axes()
    return axes | {"vocab": replace(axes["vocab"], size=len(vocabulary(config, 0, devices)))}


def vocabulary(config: DecoderConfig, rank: int, of: int) -> range:
    """The tokens whose embedding and logit are with device `rank` of `of`."""
    width = -(-config.vocab // of)
    return range(min(rank * width, config.vocab), min((rank + 1) * width, config.vocab))


def layer_axes(layer: AnyLayer, devices: int) -> Axes:
    """`layer_axes(Mamba2(..., groups=8), 8)["group"].size == 1`: the axes of a layer as one of `devices` holds them.

    Raises `ConfigError` when the layer does not divide.
    """
    axes = layer.axes()
    return axes | {name: replace(axes[name], size=chosen.kept) for name, chosen in selections(layer, 0, devices).items()}


def layer_of(layer: AnyLayer, devices: int) -> AnyLayer:
    """The layer that one of `devices` computes: the same kind, narrower."""
    return layer.resized({name: axis.size for name, axis in layer_axes(layer, devices).items()})  # type: ignore[return-value]


def selections(layer: AnyLayer, rank: int, of: int) -> Selections:
    """`selections(MLP(ffn=8), 1, 2)["ffn"].indices` is 4 ... 7: what device `rank` of `of` keeps of a layer's axes.

    Attention on more devices than it has KV heads: each keeps one of them, and a share of the queries that read it.
    Raises `ConfigError` when the layer does not divide.
    """
    axes, names = layer.axes(), layer.sharded.split()
    if all(axes[name].size % of == 0 for name in names):
        return {name: shard(axes[name], rank, of) for name in names}
    whole, query = axes[names[0]], axes.get("query")
    copies = of // whole.size
    if query and of % whole.size == 0 and query.size % copies == 0:
        return {whole.name: keep(whole, [rank // copies], axes), "query": shard(query, rank % copies, copies)}
    found = " and ".join(f"{axes[name].size} indices of '{name}'" for name in names) + (f" of {query.size} queries each" if query else "")
    raise ConfigError(f"a {layer.kind} layer has {found}, which {of} devices cannot share evenly")


def check(config: DecoderConfig, devices: int) -> None:
    """Raises `ConfigError` for a number of devices that does not divide every layer; the sentence says which numbers do."""
    for index, layer in enumerate(config.layers):
        try:
            layer_axes(layer, devices)
        except ConfigError as error:
            would = ", ".join(str(count) for count in possible(config.layers))
            raise ConfigError(f"Tensor parallelism over {devices}: {error} (layer {index}). {would} would do.") from None


def possible(layers: Iterable[AnyLayer]) -> list[int]:
    """Numbers of devices that divide all these layers, up to 256."""
    distinct = dict.fromkeys(layers)
    return [devices for devices in range(1, MOST_DEVICES + 1) if all(_divides(layer, devices) for layer in distinct)]


def _divides(layer: AnyLayer, devices: int) -> bool:
    try:
        selections(layer, 0, devices)
    except ConfigError:
        return False
    return True
