"""The shapes that are searched: how many layers of each kind stay times how wide they are, as far as the budget allows."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from pydantic import Field

from amaru.compress.budget import Budget
from amaru.compress.candidate import Candidate
from amaru.compress.scores import Scores
from amaru.config import Config
from amaru.errors import BudgetError, ConfigError
from amaru.models import cost
from amaru.models.decoder import DecoderConfig
from amaru.nn.layer import LayerConfig

SHARES: dict[str, tuple[float, ...]] = {
    "hidden": (1.0, 0.875, 0.75, 0.625, 0.5),
    "ffn": (1.0, 0.875, 0.75, 0.625, 0.5),
    "head": (1.0, 0.875, 0.75),
    "channel": (1.0, 0.75),
}
FLOORS = {"mamba2": 0.5, "attention": 0.25, "mlp": 0.5}


class SearchSpace(Config):
    """`SearchSpace(widths={"ffn": (512, 384)}, floors={"attention": 0.5})`: which shapes are worth a look.

    kept         layers of a kind that may stay, e.g. {"mamba2": (24, 20)}; kinds not named: steps down to their floor
    floors       the least share of a kind's layers that stays (at least one does); 1.0 keeps them all
    depth_steps  into how many counts the way from all layers to the floor is divided, both ends included
    widths       widths of an axis, e.g. {"hidden": (256, 192)}; `head` is counted per group
    shares       for axes not named in `widths`: shares of the parent, rounded to a multiple that kernels like
    use          candidates take at least this share of the budget; smaller ones are not looked at
    limit        at most so many candidates are ranked, chosen far apart in shape and never by size
    """

    kept: dict[str, tuple[int, ...]] = Field(default_factory=dict)
    floors: dict[str, float] = Field(default_factory=FLOORS.copy)
    depth_steps: int = Field(default=5, gt=0)
    widths: dict[str, tuple[int, ...]] = Field(default_factory=dict)
    shares: dict[str, tuple[float, ...]] = Field(default_factory=SHARES.copy)
    use: float = Field(default=0.85, ge=0, le=1)
    limit: int = Field(default=64, gt=0)

    def check(self) -> None:
        for name, share in [*self.floors.items(), *((name, share) for name, shares in self.shares.items() for share in shares)]:
            if not 0 <= share <= 1:
                raise ConfigError(f"SearchSpace takes shares from 0 to 1; got {share:g} for {name}.")


@dataclass(frozen=True)
class Enumeration:
    """What came of a search space: the candidates to rank, and how many shapes they were chosen from."""

    candidates: tuple[Candidate, ...]
    shapes: int
    fitting: int
    use: float

    def describe(self) -> str:
        chosen = "all of them" if len(self.candidates) == self.fitting else f"{len(self.candidates)} of them, far apart in shape,"
        return f"{self.shapes:,} shapes, {self.fitting:,} use {self.use:.0%} to 100% of the budget; {chosen} are ranked"


@dataclass(frozen=True)
class _Shape:
    """Layers of each kind, hidden, and the narrowed layer of each kind."""

    counts: dict[str, int]
    hidden: int
    layers: dict[str, LayerConfig]


def enumerate_candidates(config: DecoderConfig, scores: Scores, budget: Budget, space: SearchSpace | None = None) -> Enumeration:
    """Every shape of the space that fits the budget and uses most of it, thinned to `space.limit`.

    One width per axis holds for all layers of a kind; of each kind the most important layers stay. Raises `BudgetError`
    when the parent meets the budget already, when nothing does, or when nothing uses enough of it; `ConfigError` for a
    space that does not fit the parent.
    """
    space = space or SearchSpace()
    scores.check(config)
    kinds = _kinds(config)
    shapes = list(_shapes(config, kinds, space))
    costs = _Costs(config, budget)
    if budget.used(*costs.of(shapes[0])) <= 1:
        raise BudgetError(
            f"The parent meets the budget of {budget.describe()} as it is ({_text(*costs.of(shapes[0]))}); there is nothing to cut."
        )
    used = [budget.used(*costs.of(shape)) for shape in shapes]
    fitting = [shape for shape, share in zip(shapes, used, strict=True) if space.use <= share <= 1]
    if not fitting:
        raise BudgetError(_nothing_fits(budget, space, shapes, used, costs))
    candidates = [_candidate(config, scores, kinds, shape, costs) for shape in fitting]
    return Enumeration(tuple(spread(candidates, space.limit)), len(shapes), len(fitting), space.use)


def spread(candidates: Sequence[Candidate], count: int) -> list[Candidate]:
    """`count` candidates far apart in shape, in their old order: from the middle one on, always the farthest from those chosen."""
    if len(candidates) <= count:
        return list(candidates)
    named = [candidate.shape for candidate in candidates]
    names = sorted({name for shape in named for name in shape})
    shapes = np.array([[shape.get(name, 0) for name in names] for shape in named], dtype=np.float64)
    shapes /= shapes.max(axis=0)
    chosen = [int(np.argmin(np.linalg.norm(shapes - shapes.mean(axis=0), axis=1)))]
    nearest = np.full(len(shapes), np.inf)
    while len(chosen) < count:
        nearest = np.minimum(nearest, np.linalg.norm(shapes - shapes[chosen[-1]], axis=1))
        chosen.append(int(np.argmax(nearest)))
    return [candidates[index] for index in sorted(chosen)]


class _Costs:
    """Parameters and bytes of a shape. Both add up over layers, so that each distinct layer is counted once."""

    def __init__(self, config: DecoderConfig, budget: Budget) -> None:
        self._config = config
        self._workload = budget.workload
        self._known: dict[tuple[int, LayerConfig | None], tuple[int, int]] = {}

    def of(self, shape: _Shape) -> tuple[int, int]:
        parameters, memory = self._one(shape.hidden, None)
        for kind, count in shape.counts.items():
            more = self._one(shape.hidden, shape.layers[kind])
            parameters, memory = parameters + count * more[0], memory + count * more[1]
        return parameters, memory

    def _one(self, hidden: int, layer: LayerConfig | None) -> tuple[int, int]:
        """Cost of one layer, or of the network without layers."""
        if (hidden, layer) not in self._known:
            config = replace(self._config, hidden=hidden, layers=(layer,) if layer else ())  # type: ignore[arg-type]
            base = self._one(hidden, None) if layer else (0, 0)
            found = cost.parameters(config), cost.memory(config, self._workload).total
            self._known[hidden, layer] = found[0] - base[0], found[1] - base[1]
        return self._known[hidden, layer]


def _kinds(config: DecoderConfig) -> dict[str, list[int]]:
    """The layers of each kind; raises `ConfigError` when they differ in width."""
    kinds: dict[str, list[int]] = {}
    for index, layer in enumerate(config.layers):
        kinds.setdefault(layer.kind, []).append(index)
        if layer != config.layers[kinds[layer.kind][0]]:
            raise ConfigError(
                f"The search gives all {layer.kind} layers one width, but layers {kinds[layer.kind][0]} and {index} of the parent differ."
            )
    return kinds


def _shapes(config: DecoderConfig, kinds: dict[str, list[int]], space: SearchSpace) -> Iterator[_Shape]:
    """All shapes of the space, the parent's own first."""
    layers = {kind: config.layers[indices[0]] for kind, indices in kinds.items()}
    sizes = {"hidden": config.hidden}
    for layer in layers.values():
        sizes |= {name: axis.size for name, axis in layer.axes().items() if name in layer.probes}
    for what, known, given in (("axis", sizes, space.widths), ("kind of layer", kinds, space.kept)):
        if unknown := sorted(given.keys() - known.keys()):
            raise ConfigError(f"SearchSpace names the {what} '{unknown[0]}', which the parent does not have; it has: {', '.join(known)}.")
    widths = [_width_grid(name, size, space) for name, size in sizes.items()]
    depths = [_depth_grid(kind, len(indices), space) for kind, indices in kinds.items()]
    for hidden, *chosen in itertools.product(*widths):
        narrow = dict(zip(list(sizes)[1:], chosen, strict=True))
        resized = {kind: _resized(layer, narrow) for kind, layer in layers.items()}
        for counts in itertools.product(*depths):
            yield _Shape(dict(zip(kinds, counts, strict=True)), hidden, resized)


def _resized(layer: LayerConfig, widths: dict[str, int]) -> LayerConfig:
    sizes = {name: axis.size for name, axis in layer.axes().items()}
    return layer.resized(sizes | {name: widths[name] for name in layer.probes})


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
    if name == "head":
        return 1
    return 8 if name == "channel" else 64 if size >= 1024 else 16


def _depth_grid(kind: str, count: int, space: SearchSpace) -> list[int]:
    if kind in space.kept:
        if wrong := [kept for kept in space.kept[kind] if not 0 < kept <= count]:
            raise ConfigError(f"SearchSpace.kept asks for {wrong[0]} {kind} layers; the parent has {count}, and at least one stays.")
        return sorted({count, *space.kept[kind]}, reverse=True)
    floor = max(1, math.ceil(space.floors.get(kind, 1.0) * count))
    return sorted({round(kept) for kept in np.linspace(count, floor, space.depth_steps)}, reverse=True)


def _candidate(config: DecoderConfig, scores: Scores, kinds: dict[str, list[int]], shape: _Shape, costs: _Costs) -> Candidate:
    kept = sorted(index for kind, indices in kinds.items() for index in _most_important(indices, shape.counts[kind], scores))
    layers = tuple(shape.layers[config.layers[index].kind] for index in kept)
    parameters, memory = costs.of(shape)
    student = replace(config, hidden=shape.hidden, layers=layers)  # type: ignore[arg-type]
    return Candidate(layers=tuple(kept), config=student, parameters=parameters, memory=memory)


def _most_important(indices: list[int], count: int, scores: Scores) -> list[int]:
    if count == len(indices):
        return indices
    if scores.layers is None:
        raise ConfigError(
            "Dropping layers needs their importance, which these scores lack; measure it, or set every floor of SearchSpace to 1."
        )
    importance = scores.layers
    return sorted(indices, key=lambda index: -importance[index])[:count]


def _nothing_fits(budget: Budget, space: SearchSpace, shapes: list[_Shape], used: list[float], costs: _Costs) -> str:
    smallest = shapes[int(np.argmin(used))]
    if min(used) > 1:
        kinds = ", ".join(f"{count} {kind} layers" for kind, count in smallest.counts.items())
        widths = ", ".join(dict.fromkeys(layer.describe() for layer in smallest.layers.values() if layer.probes))
        return (
            f"No shape meets the budget of {budget.describe()}: the smallest in the search space has {_text(*costs.of(smallest))} "
            f"({kinds}, hidden {smallest.hidden}, {widths}). Lower SearchSpace.floors or add narrower widths."
        )
    nearest = max(share for share in used if share <= 1)
    return (
        f"Shapes that meet the budget of {budget.describe()} use at most {nearest:.1%} of it, less than SearchSpace.use = {space.use:.0%}. "
        f"Lower use, or add widths to the search space."
    )


def _text(parameters: int, memory: int) -> str:
    return f"{parameters:,} parameters, {memory / 2**20:,.4g} MiB"
