"""One block for every layer, so that the sum of their scores is the best a budget allows: Puzzle's integer program, solved by HiGHS."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from amaru.errors import BudgetError, ConfigError

Choice = tuple[int, ...]
"""For every layer the number of its block."""


@dataclass(frozen=True, eq=False)
class Program:
    """`Program(scores, costs, limits).solve(4, alike=0.8)`.

    scores   for every layer [blocks] what each block costs in quality: less is better, and sums are compared
    costs    for every layer [blocks, limits] what each takes of each limit
    limits   [limits] at most so much, what does not depend on the choice already taken off
    present  for every layer [blocks] whether there is a layer at all; at least one is
    gap      a choice whose score may be better by this share of it is good enough; 0 finds the best
    """

    scores: Sequence[np.ndarray]
    costs: Sequence[np.ndarray]
    limits: np.ndarray
    present: Sequence[np.ndarray]
    gap: float = 0.0

    def __post_init__(self) -> None:
        if not self.scores or len({len(self.scores), len(self.costs), len(self.present)}) > 1:
            raise ConfigError("A program of blocks needs scores, costs and presence for every layer, and at least one layer.")
        if not all(np.isfinite(each).all() for each in self.scores):
            raise ConfigError("Blocks have scores that are not finite; leave such blocks out.")

    def solve(self, count: int = 1, alike: float = 0.8) -> list[Choice]:
        """Up to `count` choices, best first; each shares at most `alike` of its blocks with every earlier one.

        Fewer where nothing else fits. Raises `BudgetError` when not even one choice does.
        """
        chosen: list[Choice] = []
        while len(chosen) < count:
            found = self._best(chosen, int(np.floor(alike * len(self.scores) + 1e-9)))
            if found is None:
                break
            chosen.append(found)
        if not chosen:
            raise BudgetError("No choice of blocks meets the limits.")
        return chosen

    def score(self, choice: Choice) -> float:
        return float(sum(scores[block] for scores, block in zip(self.scores, choice, strict=True)))

    def _best(self, earlier: list[Choice], most_alike: int) -> Choice | None:
        scores, costs = np.concatenate(list(self.scores)), np.concatenate(list(self.costs))
        # Limits of bytes beside limits of milliseconds: each is said as a share of itself.
        unit = np.where(self.limits == 0, 1, np.abs(self.limits))
        rules = [
            LinearConstraint(csr_array(self._layers()), 1, 1),
            LinearConstraint(csr_array((costs / unit).T), -np.inf, self.limits / unit),  # type: ignore[arg-type]
            LinearConstraint(np.concatenate(list(self.present))[None].astype(float), 1, np.inf),
        ]
        rules += [LinearConstraint(self._indicator(choice)[None], -np.inf, most_alike) for choice in earlier]
        found = milp(scores, constraints=rules, integrality=np.ones(len(scores)), bounds=Bounds(0, 1), options={"mip_rel_gap": self.gap})
        if found.x is None:
            return None
        starts = np.cumsum([0, *(len(each) for each in self.scores)])
        return tuple(int(found.x[start:end].argmax()) for start, end in pairwise(starts))

    def _layers(self) -> np.ndarray:
        """[layers, blocks of all]: which blocks are a layer's own."""
        owner = np.repeat(np.arange(len(self.scores)), [len(each) for each in self.scores])
        return (owner == np.arange(len(self.scores))[:, None]).astype(float)

    def _indicator(self, choice: Choice) -> np.ndarray:
        return np.concatenate([np.arange(len(each)) == block for each, block in zip(self.scores, choice, strict=True)]).astype(float)


def at_random(program: Program, seed: int) -> Program:
    """The same limits with scores drawn at random: a choice that looks at nothing (a control)."""
    drawn = np.random.default_rng(seed)
    return Program([drawn.random(len(each)) for each in program.scores], program.costs, program.limits, program.present)


def largest(program: Program, parameters: Sequence[np.ndarray]) -> Program:
    """The same limits, and as many parameters as they allow, to a thousandth (a control: Puzzle found it the worst rule).

    Where the limit is of parameters too, to use it to the last one is a subset sum: hours, for nothing that a control needs.
    """
    most = max(float(each.max()) for each in parameters) or 1.0
    return Program([-each / most for each in parameters], program.costs, program.limits, program.present, gap=1e-3)
