"""Every shape of a space with what it costs: which of them fit a budget, and what the smallest is where none does."""

from dataclasses import dataclass

import numpy as np

from amaru.compress.budget import Budget, Cost
from amaru.compress.costs import Costs, Times
from amaru.compress.space import SearchSpace, Widths, allowed_widths, kinds_of, layer_counts, sizes_of
from amaru.errors import BudgetError
from amaru.models.decoder import DecoderConfig
from amaru.nn.layer import LayerConfig


@dataclass(frozen=True, eq=False)
class Shapes:
    """Every shape of a space with its cost: `shapes(config, budget, space)`. Shape 0 is the parent's own.

    widths   hidden and the narrowed layer of each kind
    counts   [ways, kinds] how many layers of each kind stay; shape number i has widths i // ways and counts i % ways
    cost     of every shape; used: the share of the budget that it takes
    refused  by divisor rule, how many shapes it kept out
    """

    kinds: tuple[str, ...]
    widths: list[Widths]
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
        names = sorted({name for _, layers in self.widths for name in sizes_of(layers)})
        sizes = np.array([[hidden, *(sizes_of(layers).get(name, 0) for name in names)] for hidden, layers in self.widths])
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


def shapes(config: DecoderConfig, budget: Budget, space: SearchSpace, times: Times | None = None) -> Shapes:
    """`shapes(config, Budget(memory=32 * 2**30), SearchSpace()).fitting()`: every shape of the space, from its widths alone.

    One width per axis holds for all layers of a kind. Raises `BudgetError` when the parent meets the budget already or no shape does,
    saying how far each axis reaches; `ConfigError` for a space that does not fit the parent.
    """
    kinds, counts = tuple(kinds_of(config)), layer_counts(config, space)
    allowed, refused = allowed_widths(config, space)
    costs = Costs(config, budget, times)
    totals = np.concatenate(
        [costs.alone(hidden) + counts @ np.array([costs.layer(hidden, layers[kind]) for kind in kinds]) for hidden, layers in allowed]
    )
    cost = costs.of(totals)
    kept_out = {rule: count * len(counts) for rule, count in refused.items()}
    found = Shapes(kinds, allowed, counts, cost, budget.used(cost), budget, kept_out)
    if found.used[0] <= 1:
        raise BudgetError(
            f"The parent meets the budget of {budget.describe()} as it is ({cost.at(0).describe()}); there is nothing to cut."
        )
    if not len(found.fitting()):
        raise BudgetError(_impossible(found))
    return found


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
    names = [*found.kinds, "hidden", *sorted(sizes_of(whole.layers))]
    reached = []
    for place, name in enumerate(names):
        others = np.delete(np.arange(points.shape[1]), place)
        alone = np.flatnonzero((points[:, others] == points[0, others]).all(axis=1))
        if len(alone) > 1:
            reached.append(f"{name} {share[alone].min():.0%}")
    return f"; of what is allowed, cutting one axis alone comes down to: {', '.join(reached)}" if reached else ""
