"""Which shapes are searched: how many layers of each kind stay, how wide they are, and what widths a machine can use."""

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
from pydantic import Field

from amaru.compress.divisors import Divisors
from amaru.config import Config
from amaru.errors import ConfigError
from amaru.models.decoder import DecoderConfig
from amaru.nn.layer import LayerConfig

Widths = tuple[int, dict[str, LayerConfig]]
"""Hidden, and the narrowed layer of each kind (`kinds_of`)."""

SHARES: dict[str, tuple[float, ...]] = {
    "hidden": (1.0, 0.875, 0.75, 0.625, 0.5),
    "ffn": (1.0, 0.875, 0.75, 0.625, 0.5),
    "head": (1.0, 0.875, 0.75),
    "channel": (1.0, 0.75),
    "v_channel": (1.0, 0.75),
}
CHANNELS = ("channel", "v_channel")
COUNTED = ("head", "group", "query", "kv_group", "expert")  # not widths: any number of them will do
FLOORS = {"mamba2": 0.5, "attention": 0.25, "mlp": 0.5}


class SearchSpace(Config):
    """`SearchSpace(widths={"ffn": (512, 384)}, floors={"attention": 0.5})`: which shapes are worth a look.

    kept         layers of a kind that may stay, e.g. {"mamba2": (24, 20)}; kinds not named: steps down to their floor
    floors       the least share of a kind's layers that stays (at least one does); 1.0 keeps them all
                 Kinds are those of `kinds_of`: where layers of one differ in more than widths each form has its own, such as hybrid_head@2
    depth_steps  into how many counts the way from all layers to the floor is divided, both ends included
    widths       widths of an axis, e.g. {"hidden": (256, 192)}; `head` is counted per group
    shares       for axes not named in `widths`: shares of the parent, rounded to a multiple that kernels like
    divisors     rules that widths keep to, for the machine that they are meant for
    use          candidates take at least this share of the budget; smaller ones are not looked at
    limit        at most so many candidates are ranked, chosen far apart in shape and never by size
    """

    kept: dict[str, tuple[int, ...]] = Field(default_factory=dict)
    floors: dict[str, float] = Field(default_factory=FLOORS.copy)
    depth_steps: int = Field(default=5, gt=0)
    widths: dict[str, tuple[int, ...]] = Field(default_factory=dict)
    shares: dict[str, tuple[float, ...]] = Field(default_factory=SHARES.copy)
    divisors: Divisors = Divisors()
    use: float = Field(default=0.85, ge=0, le=1)
    limit: int = Field(default=64, gt=0)

    def check(self) -> None:
        for name, share in [*self.floors.items(), *((name, share) for name, shares in self.shares.items() for share in shares)]:
            if not 0 <= share <= 1:
                raise ConfigError(f"SearchSpace takes shares from 0 to 1; got {share:g} for {name}.")


def pairs(config: DecoderConfig, space: SearchSpace) -> list[tuple[int, LayerConfig]]:
    """Every hidden size with every layer that a space holds, and what that needs: all that a table of times has to tell."""
    allowed, _ = allowed_widths(config, space)
    return list(dict.fromkeys((hidden, each) for hidden, layers in allowed for layer in layers.values() for each in (*layer.needs, layer)))


def allowed_widths(config: DecoderConfig, space: SearchSpace) -> tuple[list[Widths], dict[str, int]]:
    """The widths that keep to the rules (the parent's own, the first, in any case), and how many each rule kept out."""
    widths = list(_widths(config, kinds_of(config), space))
    allowed, refused = widths[:1], Counter[str]()
    for hidden, layers in widths[1:]:
        each_once = tuple(each for layer in layers.values() for each in (*layer.needs, layer))
        rule = space.divisors.broken(replace(config, hidden=hidden, layers=each_once))  # type: ignore[arg-type]
        if rule is None:
            allowed.append((hidden, layers))
        else:
            refused[rule] += 1
    return allowed, dict(refused)


def layer_counts(config: DecoderConfig, space: SearchSpace) -> np.ndarray:
    """[ways, kinds]: every combination of how many layers of each kind stay, all of them first."""
    read = set(config.kv_sources().values())
    grids = (_depth_grid(kind, len(places), len(read & set(places)), space) for kind, places in kinds_of(config).items())
    return np.array(list(itertools.product(*grids)))


def sizes_of(layers: Mapping[str, LayerConfig]) -> dict[str, int]:
    """Widths that a cut may narrow, of all kinds."""
    return {name: axis.size for layer in layers.values() for name, axis in layer.axes().items() if name in layer.probes}


def kinds_of(config: DecoderConfig) -> dict[str, list[int]]:
    """The layers of each kind; raises `ConfigError` when they differ in width.

    Layers of a kind that differ in something else (a window, whose keys and values they read) are kinds by themselves, named by the first
    layer of each form: hybrid_head@0, hybrid_head@2.
    """
    forms: dict[str, dict[LayerConfig, list[int]]] = {}
    for index, layer in enumerate(config.layers):
        forms.setdefault(layer.kind, {}).setdefault(layer, []).append(index)
    kinds: dict[str, list[int]] = {}
    for kind, each in forms.items():
        first, *others = each
        if unlike := next((layer for layer in others if _sizes(layer) != _sizes(first)), None):
            raise ConfigError(
                f"The search gives all {kind} layers one width, but layers {each[first][0]} and {each[unlike][0]} of the parent differ."
            )
        kinds |= {f"{kind}@{places[0]}" if others else kind: places for places in each.values()}
    return kinds


def _sizes(layer: LayerConfig) -> dict[str, int]:
    return {name: axis.size for name, axis in layer.axes().items()}


def _widths(config: DecoderConfig, kinds: dict[str, list[int]], space: SearchSpace) -> Iterator[Widths]:
    """All widths of the space, the parent's own first."""
    layers = {kind: config.layers[indices[0]] for kind, indices in kinds.items()}
    sizes = {"hidden": config.hidden} | sizes_of(layers)  # type: ignore[arg-type]
    for what, known, given in (("axis", sizes, space.widths), ("kind of layer", kinds, space.kept)):
        if unknown := sorted(given.keys() - known.keys()):
            raise ConfigError(f"SearchSpace names the {what} '{unknown[0]}', which the parent does not have; it has: {', '.join(known)}.")
    for hidden, *chosen in itertools.product(*(_width_grid(name, size, space) for name, size in sizes.items())):
        narrow = dict(zip(list(sizes)[1:], chosen, strict=True))
        yield hidden, {kind: _resized(layer, narrow) for kind, layer in layers.items()}


def _resized(layer: LayerConfig, widths: dict[str, int]) -> LayerConfig:
    return layer.resized(_sizes(layer) | {name: widths[name] for name in layer.probes})


def _width_grid(name: str, size: int, space: SearchSpace) -> list[int]:
    if name in space.widths:
        if wrong := [width for width in space.widths[name] if not 0 < width <= size]:
            raise ConfigError(f"SearchSpace.widths asks for {name} {wrong[0]}; the parent has {size}, and a cut only makes it narrower.")
        return sorted({size, *space.widths[name]}, reverse=True)
    step = _multiple(name, size)
    return sorted(
        {size} | {width for share in space.shares.get(name, ()) if 0 < (width := round(share * size / step) * step) < size}, reverse=True
    )


def _multiple(name: str, size: int) -> int:
    """Widths that matrix units like: FP8 needs multiples of 16, and 64 fills a tile where the model is large enough."""
    if name in COUNTED:
        return 1
    return 8 if name in CHANNELS else 64 if size >= 1024 else 16


def _depth_grid(kind: str, count: int, read: int, space: SearchSpace) -> list[int]:
    """How many of `count` layers may stay, of which other layers read the keys and values of `read`."""
    if kind in space.kept:
        least = max(1, read)
        if wrong := [kept for kept in space.kept[kind] if not least <= kept <= count]:
            why = f"others read what {read} of them keep" if read else "at least one stays"
            raise ConfigError(f"SearchSpace.kept asks for {wrong[0]} {kind} layers; the parent has {count}, and {why}.")
        return sorted({count, *space.kept[kind]}, reverse=True)
    share = space.floors.get(kind, space.floors.get(kind.partition("@")[0], 1.0))
    floor = max(1, read, math.ceil(share * count))
    return sorted({round(kept) for kept in np.linspace(count, floor, space.depth_steps)}, reverse=True)
