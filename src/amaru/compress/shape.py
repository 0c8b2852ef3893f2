"""A shape that somebody asks for by name: the student's widths and layers, checked against what the parent can be cut to."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from amaru.axes import Axes, Axis
from amaru.compress.candidate import Candidate
from amaru.errors import ConfigError
from amaru.models import cost
from amaru.models.cost import Workload
from amaru.models.decoder import AnyLayer, DecoderConfig


def shaped(
    parent: DecoderConfig,
    widths: Mapping[str, int] | None = None,
    *,
    layers: Sequence[int] | None = None,
    at: Mapping[int, Mapping[str, int]] | None = None,
    workload: Workload | None = None,
) -> Candidate:
    """`shaped(parent, {"hidden": 3072, "ffn": 12288, "head": 14}, layers=range(52))`: the candidate of these widths.

    widths   the size of an axis in every layer that has it; `head` is counted per group, `query` per KV group
    layers   kept layers by their index in the parent; None: all
    at       by the parent's layer index, widths of that layer alone, which go before `widths`
    workload what the candidate's memory is counted for

    Raises `ConfigError` for an axis that the parent has not, or that the model cannot be cut to so many of, naming axis and layer,
    the size that is there and the smallest possible.
    """
    widths, at = dict(widths or {}), {index: dict(own) for index, own in (at or {}).items()}
    kept = tuple(range(len(parent.layers)) if layers is None else layers)
    if not kept or list(kept) != sorted(set(kept)) or kept[0] < 0 or kept[-1] >= len(parent.layers):
        raise ConfigError(f"A shape keeps layers from 0 to {len(parent.layers) - 1}, ascending and each once; got {list(kept)}.")
    if strange := sorted(at.keys() - set(kept)):
        raise ConfigError(f"Widths are asked for in layer {strange[0]}, which the shape does not keep.")
    _check_names(parent, kept, widths)
    network = {name: _size(axis, "The network", widths.get(name, axis.size)) for name, axis in parent.axes().items()}
    narrowed = tuple(_layer(parent.layers[index], f"Layer {index}", widths, at.get(index, {})) for index in kept)
    config = replace(parent, vocab=network["vocab"], hidden=network["hidden"], layers=narrowed)
    memory = cost.memory(config, workload or Workload()).total
    return Candidate(layers=kept, config=config, parameters=cost.parameters(config), memory=memory)


def _check_names(parent: DecoderConfig, kept: tuple[int, ...], widths: Mapping[str, int]) -> None:
    known = dict.fromkeys([*parent.axes(), *(name for index in kept for name in parent.layers[index].axes())])
    if unknown := [name for name in widths if name not in known]:
        raise ConfigError(f"There is no axis '{unknown[0]}' to narrow in the layers that stay; there is: {', '.join(known)}.")


def _layer(layer: AnyLayer, name: str, widths: Mapping[str, int], own: Mapping[str, int]) -> AnyLayer:
    axes, owner = layer.axes(), f"{name} ({layer.kind})"
    if unknown := [axis for axis in own if axis not in axes]:
        raise ConfigError(f"{owner} has no axis '{unknown[0]}' to narrow; it has: {', '.join(_free(axes))}.")
    asked = {**widths, **own}
    sizes = {axis: _size(axes[axis], owner, asked.get(axis, axes[axis].size)) for axis in axes}
    try:
        return layer.resized(sizes)  # type: ignore[return-value]
    except ConfigError as error:
        raise ConfigError(f"{owner}: {error}") from None


def _size(axis: Axis, owner: str, asked: int) -> int:
    if asked == axis.size:
        return asked
    if axis.fixed:
        raise ConfigError(f"{owner}: the axis '{axis.name}' is fixed at {axis.size}; it cannot be made {asked}.")
    if not axis.least <= asked <= axis.size:
        under = f" for each {' and '.join(axis.parents)}" if axis.parents else ""
        raise ConfigError(f"{owner}: the axis '{axis.name}' can be cut to {axis.least} to {axis.size}{under}; {asked} was asked for.")
    return asked


def _free(axes: Axes) -> list[str]:
    return [name for name, axis in axes.items() if not axis.fixed]
