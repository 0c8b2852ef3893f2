"""The shapes that are searched: how many layers of each kind stay times how wide they are, as far as the budget allows."""

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from pydantic import Field

from amaru.compress.budget import Budget, Cost
from amaru.compress.candidate import Candidate, candidate
from amaru.compress.costs import Costs, Times
from amaru.compress.divisors import Divisors
from amaru.compress.scores import Scores
from amaru.config import Config
from amaru.errors import BudgetError, ConfigError
from amaru.models.decoder import DecoderConfig
from amaru.nn.layer import LayerConfig

SHARES: dict[str, tuple[float, ...]] = {
    "hidden": (1.0, 0.875, 0.75, 0.625, 0.5),
    "ffn": (1.0, 0.875, 0.75, 0.625, 0.5),
    "head": (1.0, 0.875, 0.75),
    "channel": (1.0, 0.75),
}
COUNTED = ("head", "group", "query", "kv_group", "expert")  # not widths: any number of them will do
FLOORS = {"mamba2": 0.5, "attention": 0.25, "mlp": 0.5}


class SearchSpace(Config):
    """`SearchSpace(widths={"ffn": (512, 384)}, floors={"attention": 0.5})`: which shapes are worth a look.

    kept         layers of a kind that may stay, e.g. {"mamba2": (24, 20)}; kinds not named: steps down to their floor
    floors       the least share of a kind's layers that stays (at least one does); 1.0 keeps them all
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


@dataclass(frozen=True, eq=False)
class Shapes:
    """Every shape of a space with its cost: `shapes(config, budget, space)`. Shape 0 is the parent's own.

    widths   hidden and the narrowed layer of each kind
    counts   [ways, kinds] how many layers of each kind stay; shape number i has widths i // ways and counts i % ways
    cost     of every shape; used: the share of the budget that it takes
    refused  by divisor rule, how many shapes it kept out
    """

    kinds: tuple[str, ...]
    widths: list[tuple[int, dict[str, LayerConfig]]]
    counts: np.ndarray
    cost: Cost
    used: np.ndarray
    budget: Budget
    refused: dict[str, int]

    def fitting(self, use: float = 0.0) -> np.ndarray:
        """The numbers of those that take at least `use` of the budget and at most all of it."""
        return np.flatnonzero((self.used >= use) & (self.used <= 1))

    def shape(self, number: int) -> "Shape":
        widths, counts = divmod(int(number), len(self.counts))
        hidden, layers = self.widths[widths]
        return Shape(dict(zip(self.kinds, self.counts[counts].tolist(), strict=True)), hidden, layers)

    def points(self, numbers: np.ndarray) -> np.ndarray:
        """[numbers, counts and sizes]: shapes as places in a space, each axis from 0 to 1."""
        widths, counts = np.divmod(numbers, len(self.counts))
        names = sorted({name for _, layers in self.widths for name in _sizes(layers)})
        sizes = np.array([[hidden, *(_sizes(layers).get(name, 0) for name in names)] for hidden, layers in self.widths])
        points = np.concatenate([self.counts[counts], sizes[widths]], axis=1).astype(np.float64)
        return points / np.maximum(points.max(axis=0), 1)


@dataclass(frozen=True)
class Shape:
    """Layers of each kind, hidden, and the narrowed layer of each kind."""

    counts: dict[str, int]
    hidden: int
    layers: dict[str, LayerConfig]

    def describe(self) -> str:
        kinds = ", ".join(f"{count} {kind} layers" for kind, count in self.counts.items())
        widths = dict.fromkeys(layer.describe() for layer in self.layers.values() if layer.probes)
        return ", ".join([kinds, f"hidden {self.hidden}", *widths])


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


def shapes(config: DecoderConfig, budget: Budget, space: SearchSpace, times: Times | None = None) -> Shapes:
    """`shapes(config, Budget(memory=32 * 2**30), SearchSpace()).fitting()`: every shape of the space, from its widths alone.

    One width per axis holds for all layers of a kind. Raises `BudgetError` when the parent meets the budget already or no shape does,
    saying how far each axis reaches; `ConfigError` for a space that does not fit the parent.
    """
    kinds = _kinds(config)
    counts = np.array(list(itertools.product(*(_depth_grid(kind, len(places), space) for kind, places in kinds.items()))))
    allowed, refused = _allowed(config, list(_widths(config, kinds, space)), space.divisors, len(counts))
    costs = Costs(config, budget, times)
    totals = np.concatenate(
        [costs.alone(hidden) + counts @ np.array([costs.layer(hidden, layers[kind]) for kind in kinds]) for hidden, layers in allowed]
    )
    cost = costs.of(totals)
    found = Shapes(tuple(kinds), allowed, counts, cost, budget.used(cost), budget, refused)
    if found.used[0] <= 1:
        raise BudgetError(
            f"The parent meets the budget of {budget.describe()} as it is ({cost.at(0).describe()}); there is nothing to cut."
        )
    if not len(found.fitting()):
        raise BudgetError(_impossible(found))
    return found


def enumerate_candidates(
    config: DecoderConfig, scores: Scores, budget: Budget, space: SearchSpace | None = None, times: Times | None = None
) -> Enumeration:
    """Every shape of the space that fits the budget and uses most of it, thinned to `space.limit`.

    Of each kind the most important layers stay. Raises what `shapes` raises, and `BudgetError` when nothing uses enough of the budget.
    """
    space = space or SearchSpace()
    scores.check(config)
    found = shapes(config, budget, space, times)
    fitting = found.fitting(space.use)
    if not len(fitting):
        raise BudgetError(
            f"Shapes that meet the budget of {budget.describe()} use at most {found.used[found.used <= 1].max():.1%} of it, "
            f"less than SearchSpace.use = {space.use:.0%}. Lower use, or add widths to the search space."
        )
    chosen = fitting[spread(found.points(fitting), space.limit)]
    candidates = tuple(_candidate(config, scores, found, number) for number in chosen)
    return Enumeration(candidates, len(found.used), len(fitting), space.use)


def spread(points: np.ndarray, count: int) -> list[int]:
    """`count` places of `points` [n, axes] far apart, ascending: from the middle one on, always the farthest from those chosen."""
    if len(points) <= count:
        return list(range(len(points)))
    chosen = [int(np.argmin(np.linalg.norm(points - points.mean(axis=0), axis=1)))]
    nearest = np.full(len(points), np.inf)
    while len(chosen) < count:
        nearest = np.minimum(nearest, np.linalg.norm(points - points[chosen[-1]], axis=1))
        chosen.append(int(np.argmax(nearest)))
    return sorted(chosen)


def pairs(config: DecoderConfig, space: SearchSpace) -> list[tuple[int, LayerConfig]]:
    """Every hidden size with every layer that a space holds: what a table of times has to tell."""
    allowed, _ = _allowed(config, list(_widths(config, _kinds(config), space)), space.divisors, 1)
    return list(dict.fromkeys((hidden, layer) for hidden, layers in allowed for layer in layers.values()))


def _allowed(
    config: DecoderConfig, widths: list[tuple[int, dict[str, LayerConfig]]], divisors: Divisors, ways: int
) -> tuple[list[tuple[int, dict[str, LayerConfig]]], dict[str, int]]:
    """The widths that keep to the rules (the parent's own, the first, in any case), and how many shapes each rule kept out."""
    allowed, refused = widths[:1], Counter[str]()
    for hidden, layers in widths[1:]:
        rule = divisors.broken(replace(config, hidden=hidden, layers=tuple(layers.values())))  # type: ignore[arg-type]
        if rule is None:
            allowed.append((hidden, layers))
        else:
            refused[rule] += ways
    return allowed, dict(refused)


def _sizes(layers: Mapping[str, LayerConfig]) -> dict[str, int]:
    """Widths that a cut may narrow, of all kinds."""
    return {name: axis.size for layer in layers.values() for name, axis in layer.axes().items() if name in layer.probes}


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


def _widths(config: DecoderConfig, kinds: dict[str, list[int]], space: SearchSpace) -> Iterator[tuple[int, dict[str, LayerConfig]]]:
    """All widths of the space, the parent's own first."""
    layers = {kind: config.layers[indices[0]] for kind, indices in kinds.items()}
    sizes = {"hidden": config.hidden} | _sizes(layers)  # type: ignore[arg-type]
    for what, known, given in (("axis", sizes, space.widths), ("kind of layer", kinds, space.kept)):
        if unknown := sorted(given.keys() - known.keys()):
            raise ConfigError(f"SearchSpace names the {what} '{unknown[0]}', which the parent does not have; it has: {', '.join(known)}.")
    for hidden, *chosen in itertools.product(*(_width_grid(name, size, space) for name, size in sizes.items())):
        narrow = dict(zip(list(sizes)[1:], chosen, strict=True))
        yield hidden, {kind: _resized(layer, narrow) for kind, layer in layers.items()}


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
    if name in COUNTED:
        return 1
    return 8 if name == "channel" else 64 if size >= 1024 else 16


def _depth_grid(kind: str, count: int, space: SearchSpace) -> list[int]:
    if kind in space.kept:
        if wrong := [kept for kept in space.kept[kind] if not 0 < kept <= count]:
            raise ConfigError(f"SearchSpace.kept asks for {wrong[0]} {kind} layers; the parent has {count}, and at least one stays.")
        return sorted({count, *space.kept[kind]}, reverse=True)
    floor = max(1, math.ceil(space.floors.get(kind, 1.0) * count))
    return sorted({round(kept) for kept in np.linspace(count, floor, space.depth_steps)}, reverse=True)


def _candidate(config: DecoderConfig, scores: Scores, found: Shapes, number: int) -> Candidate:
    shape, kinds = found.shape(number), _kinds(config)
    kept = sorted(index for kind, indices in kinds.items() for index in most_important(indices, shape.counts[kind], scores))
    layers = tuple(shape.layers[config.layers[index].kind] for index in kept)
    student = replace(config, hidden=shape.hidden, layers=layers)  # type: ignore[arg-type]
    return candidate(tuple(kept), student, found.cost.at(number))


def most_important(indices: list[int], count: int, scores: Scores) -> list[int]:
    """The `count` of these layers whose removal moves the output most; raises `ConfigError` where that was not measured."""
    if count == len(indices):
        return indices
    if scores.layers is None:
        raise ConfigError(
            "Dropping layers needs their importance, which these scores lack; measure it, or set every floor of SearchSpace to 1."
        )
    importance = scores.layers
    return sorted(indices, key=lambda index: -importance[index])[:count]


def _impossible(found: Shapes) -> str:
    """For each limit that no shape meets, the smallest that the space reaches: along every axis alone, and along all."""
    missed = {name: share for name, share in found.budget.shares(found.cost).items() if share.min() > 1}
    missed = missed or {"all limits together": found.used}  # each is met by some shape, but never all by one
    sentences = [f"No shape meets the budget of {found.budget.describe()}."]
    for name, share in missed.items():
        smallest = int(np.argmin(share))
        sentences.append(
            f"Of {name}, the {'fastest' if name == 'throughput' else 'smallest'} in the search space has "
            f"{found.cost.at(smallest).describe()} ({found.shape(smallest).describe()})"
            f"{_by_axis(found, share)}."
        )
    return " ".join([*sentences, "Raise the budget, lower SearchSpace.floors or add narrower widths."])


def _by_axis(found: Shapes, share: np.ndarray) -> str:
    """How far each axis reaches alone, as a share of the limit."""
    whole, points = found.shape(0), found.points(np.arange(len(found.used)))
    names = [*found.kinds, "hidden", *sorted(_sizes(whole.layers))]
    reached = []
    for place, name in enumerate(names):
        others = np.delete(np.arange(points.shape[1]), place)
        alone = np.flatnonzero((points[:, others] == points[0, others]).all(axis=1))
        if len(alone) > 1:
            reached.append(f"{name} {share[alone].min():.0%}")
    return f"; of what is allowed, cutting one axis alone comes down to: {', '.join(reached)}" if reached else ""
