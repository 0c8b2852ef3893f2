"""What families of two-part blocks share: each of their layers is two of ours, a token mixer and an MLP."""

from collections.abc import Mapping
from typing import Any

from amaru.models.decoder import DecoderConfig
from amaru.models.families.stored import Stored
from amaru.nn.layer import LayerConfig

Names = Mapping[str, str]
"""By our name inside a layer, the name in the file; what is not listed is not part of the family."""


def stored_blocks(config: DecoderConfig, network: Names, parts: tuple[Names, Names]) -> list[Stored]:
    """Every tensor: those outside the layers by `network`, layer i by `parts[i % 2]` under `model.layers.{i // 2}`."""
    outside = config.network_tensors()
    found = [Stored(network[name], name) for name in outside if name != "head.weight"]
    for index in range(len(config.layers)):
        block, half = divmod(index, 2)
        names = parts[half]
        found += [Stored(f"model.layers.{block}.{names[name]}", f"layers.{index}.{name}") for name in config.layer_tensors(index)]
    return found + ([Stored(network["head.weight"], "head.weight")] if "head.weight" in outside else [])


def blocks(config: DecoderConfig, kinds: tuple[type, type]) -> list[tuple[Any, Any]] | str:
    """The stack as blocks of these two kinds, or why it is none."""
    first, second = config.layers[::2], config.layers[1::2]
    fits = all(isinstance(layer, kinds[0]) for layer in first) and all(isinstance(layer, kinds[1]) for layer in second)
    if not first or len(first) != len(second) or not fits:
        return f"is a stack of {kinds[0].__name__} and {kinds[1].__name__} layers in turn"
    return list(zip(first, second, strict=True))


def one_width(layers: tuple[LayerConfig, ...]) -> LayerConfig | None:
    """The layer that all of them equal; None when they differ."""
    distinct = set(layers)
    return next(iter(distinct)) if len(distinct) == 1 else None
