"""What a model is made of, told from its config alone."""

from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

from amaru.config import to_dict
from amaru.errors import ConfigError
from amaru.models.cost import active_parameters, parameters, parameters_by_kind
from amaru.models.decoder import DecoderConfig
from amaru.models.families import family_for, read_json
from amaru.models.pattern import pattern_of
from amaru.models.quantised import encodings_of, projections
from amaru.nn.layer import elements

INNER_AXES = ("unit", "lag")  # no widths: one, and what follows from the taps


def describe(config: DecoderConfig, layer: int | None = None) -> dict[str, Any]:
    """`describe(config_of("nemotron-h-8b"))`: its pattern, widths and parameters, for JSON; with `layer` also the tensors of that layer.

    Raises `ConfigError` for a layer that is not there.
    """
    attending = [index for index, each in enumerate(config.layers) if "qk_channel" in each.axes()]
    facts = {
        "pattern": pattern_of(config.layers),
        "layers_per_block": family_for(config).LAYERS_PER_BLOCK,
        **{name: getattr(config, name) for name in ("vocab", "hidden", "tied", "norm", "norm_eps", "meta_tokens", "max_positions")},
        "parameters": parameters(config),
        "active_parameters": active_parameters(config),
        "parameters_by_kind": parameters_by_kind(config),
        "attention_layers": attending,
        "windows": {index: window for index in attending if (window := getattr(config.layers[index], "window", None))},
        "kv_groups": _kv_groups(config, attending),
        "varying_widths": _varying(config),
        "kinds": list(_kinds(config)),
    }
    return facts if layer is None else facts | {"layer": _layer(config, layer)}


def stored_codes(model: str, config: DecoderConfig) -> list[dict[str, Any]]:
    """Of a checkpoint that `amaru quantize` wrote: what weights are stored as instead of numbers, and how many parameters those are."""
    encodings = encodings_of(read_json(Path(model) / "config.json"), config) if Path(model).is_dir() else {}
    shapes = projections(config)
    return [
        {
            "stored_as": str(encoding),
            "tensors": len(names := [name for name, each in encodings.items() if each == encoding]),
            "parameters": sum(prod(shapes[name]) for name in names),
        }
        for encoding in dict.fromkeys(encodings.values())
    ]


def _kinds(config: DecoderConfig) -> Iterator[dict[str, Any]]:
    """One row for each distinct layer config, in the order of first appearance."""
    indices: dict[Any, list[int]] = {}
    for index, layer in enumerate(config.layers):
        indices.setdefault(layer, []).append(index)
    for layer, layers in indices.items():
        each = elements(config.layer_tensors(layers[0]), config.layer_axes(layers[0]))
        row = {"letter": layer.letter, "kind": layer.kind, "widths": layer.describe(), "layers": layers, "parameters_each": each}
        yield row | {"config": to_dict(layer)}


def _kv_groups(config: DecoderConfig, attending: list[int]) -> list[list[int]]:
    """Layers that read the same keys and values; the first of each group owns them."""
    groups: list[list[int]] = []
    for index in attending:
        layer = config.layers[index]
        if layer.cache_tensors():
            groups.append([index])
        else:
            next(group for group in reversed(groups) if config.layers[group[0]].kind == layer.kind).append(index)
    return groups


def _varying(config: DecoderConfig) -> dict[str, list[int | None]]:
    """For each axis whose size differs among layers of one kind, the size in every layer of that kind."""
    sizes: dict[tuple[str, str], dict[int, int]] = {}
    for index, layer in enumerate(config.layers):
        for axis in layer.axes().values():
            sizes.setdefault((axis.name, layer.kind), {})[index] = axis.size
    varying = {key: found for key, found in sizes.items() if len(set(found.values())) > 1 and key[0] not in INNER_AXES}
    names = [axis for axis, _ in varying]
    return {
        (axis if names.count(axis) == 1 else f"{kind}.{axis}"): [found.get(index) for index in range(len(config.layers))]
        for (axis, kind), found in varying.items()
    }


def _layer(config: DecoderConfig, index: int) -> dict[str, Any]:
    if not 0 <= index < len(config.layers):
        raise ConfigError(f"There is no layer {index}; this model has layers 0 to {len(config.layers) - 1}.")
    axes = config.layer_axes(index)
    tensors = [
        {
            "name": name,
            "layout": str(spec.layout),
            "shape": list(spec.layout.shape(axes)),
            "parameters": spec.layout.numel(axes),
            "always_fp32": spec.keep_fp32,
        }
        for name, spec in config.layer_tensors(index).items()
    ]
    sizes = [
        {"name": axis.name, "size": axis.size, "parents": list(axis.parents), "fixed": axis.fixed}
        for axis in axes.values()
        if axis.name != "vocab"
    ]
    return {"index": index, "kind": config.layers[index].kind, "axes": sizes, "tensors": tensors}
