"""The candidates of a search with one width for all layers of a kind: shapes that fit, the most important layers, far apart in shape."""

from dataclasses import dataclass, replace

import numpy as np

from amaru.compress.budget import Budget
from amaru.compress.candidate import Candidate, candidate
from amaru.compress.costs import Times
from amaru.compress.scores import Scores
from amaru.compress.shapes import Shapes, shapes
from amaru.compress.space import SearchSpace, kinds_of
from amaru.errors import BudgetError, ConfigError
from amaru.models.decoder import DecoderConfig


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


def _candidate(config: DecoderConfig, scores: Scores, found: Shapes, number: int) -> Candidate:
    shape, kinds = found.shape(number), kinds_of(config)
    kept = sorted(index for kind, indices in kinds.items() for index in most_important(indices, shape.counts[kind], scores))
    kind_of = {index: kind for kind, indices in kinds.items() for index in indices}
    layers = tuple(shape.layers[kind_of[index]] for index in kept)
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
