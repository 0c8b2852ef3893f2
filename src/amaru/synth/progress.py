"""What a run has come to while it is under way: rows of each step, calls a second, what they cost, and how long it may take."""

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from amaru.synth.budget import Usage
from amaru.synth.forecast import Expected
from amaru.synth.recipe import SynthRecipe
from amaru.synth.running import Tally
from amaru.synth.steps import Starting

RECENT = 30.0  # seconds over which calls are counted for the rate


@dataclass(frozen=True)
class StepNow:
    """One step: rows that it takes in all as far as can be told (`expected`), those done, and what became of them."""

    name: str
    kind: str
    expected: int
    done: int
    rows: int
    from_before: int
    dropped: int
    failed: int

    @property
    def accepted(self) -> float | None:
        """The share of the rows done that went on."""
        return (self.done - self.dropped - self.failed) / self.done if self.done else None


@dataclass(frozen=True)
class Now:
    """All steps, and the run as a whole; `seconds_left` is None as long as nothing tells it."""

    steps: tuple[StepNow, ...]
    calls_a_second: float
    calls: int
    pushed_back: int
    ever: Usage
    seconds_left: float | None

    @property
    def line(self) -> str:
        steps = "  ".join(f"{step.name} {step.done:,}/{step.expected:,}" for step in self.steps if step.done)
        money = f"  cost {self.ever.money:.4f}" if self.ever.money else ""
        left = "" if self.seconds_left is None else f"  {duration(self.seconds_left)} left"
        return f"{steps}  {self.calls_a_second:.1f} calls/s  {self.pushed_back} times pushed back  {self.ever.tokens:,} tokens{money}{left}"


class Watch:
    """`Watch(recipe, forecast(bound), running.tallies).now(spent, ever, refused)`, several times a second.

    What is to come is reckoned from what steps made of their rows so far, and where there is nothing yet from the forecast.
    """

    def __init__(self, recipe: SynthRecipe, expected: Sequence[Expected], tallies: Mapping[str, Tally], only: int | None = None) -> None:
        self.recipe = recipe
        self.expected = expected
        self.tallies = tallies
        self.only = only
        self._calls: deque[tuple[float, int]] = deque([(time.monotonic(), 0)])

    def now(self, spent: Usage, ever: Usage, refused: int) -> Now:
        """`spent` by this run, `ever` by all runs here."""
        taken = self._taken()
        rate = self._rate(spent.calls)
        calls = sum(max(0, taken[each.name] - self.tallies[each.name].done) * _calls_of_one(each) for each in self.expected)
        left = calls / rate if rate else None
        steps = tuple(self._step(number, each, taken[each.name]) for number, each in enumerate(self.expected))
        return Now(steps, rate, spent.calls, refused, ever, left)

    def _taken(self) -> dict[str, int]:
        """How many rows each step takes in all."""
        taken: dict[str, int] = {}
        rows: dict[int, float] = {}
        for number, each in enumerate(self.expected):
            before = self.recipe.before(number)
            count = round(sum(rows[other] for other in before)) if before else 1
            tally = self.tallies[each.name]
            if isinstance(self.recipe.steps[number], Starting):
                taken[each.name], rows[number] = 0, each.rows
                continue
            taken[each.name] = max(tally.taken, count if self.only is None else min(count, self.only))
            rows[number] = tally.made + max(0, taken[each.name] - tally.done) * _rows_of_one(each, tally)
        return taken

    def _step(self, number: int, each: Expected, taken: int) -> StepNow:
        tally = self.tallies[each.name]
        dropped, failed = tally.dropped.total(), tally.failed.total()
        expected, done = (each.rows, tally.made) if isinstance(self.recipe.steps[number], Starting) else (taken, tally.done)
        return StepNow(each.name, each.kind, expected, done, tally.made, tally.kept_from_before, dropped, failed)

    def _rate(self, calls: int) -> float:
        now = time.monotonic()
        self._calls.append((now, calls))
        while now - self._calls[0][0] > RECENT:
            self._calls.popleft()
        first, before = self._calls[0]
        return (calls - before) / (now - first) if now > first else 0.0


def duration(seconds: float) -> str:
    """`duration(754) == "13 min"`"""
    for unit, name in ((3600, "h"), (60, "min")):
        if seconds >= 1.5 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} s"


def _rows_of_one(each: Expected, tally: Tally) -> float:
    return tally.made / tally.done if tally.done else each.rows / max(each.taken, 1)


def _calls_of_one(each: Expected) -> float:
    return each.usage.calls / max(each.taken, 1)
