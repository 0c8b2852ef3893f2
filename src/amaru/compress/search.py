"""Which shape wins: rank all by what they do untrained, train the most promising a little, and judge again."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scipy.stats import kendalltau

from amaru.compress.candidate import Candidate
from amaru.compress.store import CandidateStore
from amaru.errors import ConfigError, TrainingError

Progress = Callable[[str], None]
Evaluate = Callable[[Candidate], Mapping[str, Any]]
Fit = Callable[[Candidate, int], Mapping[str, Any]]


@dataclass(frozen=True)
class Ranked:
    """A candidate and what it scored: `result["loss"]`, and whatever else was measured."""

    candidate: Candidate
    result: dict[str, Any]

    @property
    def loss(self) -> float:
        """The loss to rank by; one that is not a number ranks last."""
        return math.inf if math.isnan(self.result["loss"]) else self.result["loss"]


@dataclass(frozen=True)
class Contender:
    """One candidate of the shortlist: its results and its ranks (from 1) among them before and after training."""

    candidate: Candidate
    before: dict[str, Any]
    after: dict[str, Any]
    rank_before: int
    rank_after: int


@dataclass(frozen=True)
class Outcome:
    """What a search found.

    contenders    the shortlist, best after training first
    kendall_tau   agreement of the two rankings, from -1 to 1; None where it is not defined
    """

    contenders: tuple[Contender, ...]
    kendall_tau: float | None

    @property
    def winner(self) -> Candidate:
        return self.contenders[0].candidate


def rank_zero_shot(
    candidates: Sequence[Candidate], evaluate: Evaluate, store: CandidateStore, *, progress: Progress | None = None
) -> list[Ranked]:
    """`rank_zero_shot(candidates, evaluate, store)`: all of them, best loss first.

    `evaluate(candidate)` gives a mapping with at least "loss" of the student as it is cut, before any training; what the
    store knows is not evaluated again.
    """
    ranked = []
    for number, candidate in enumerate(candidates, 1):
        result = _kept(store, candidate, "zero-shot", 0, lambda candidate=candidate: evaluate(candidate))
        ranked.append(Ranked(candidate, result))
        if progress:
            progress(f"zero-shot {number}/{len(candidates)}: loss {result['loss']:.3f}, {candidate.describe()}")
    return sorted(ranked, key=lambda each: each.loss)


def shortlist(ranked: Sequence[Ranked], count: int, *, difference: float = 0.1) -> list[Ranked]:
    """The best `count` whose shapes differ: each from every better one by at least `difference` in some width or count.

    Where fewer differ so much, the best of the others fill the list.
    """
    chosen: list[Ranked] = []
    for each in ranked:
        if len(chosen) < count and all(_difference(each.candidate, other.candidate) >= difference for other in chosen):
            chosen.append(each)
    chosen += [each for each in ranked if each not in chosen][: max(0, count - len(chosen))]
    return sorted(chosen, key=lambda each: each.loss)


def judge(
    contenders: Sequence[Ranked], fit: Fit, tokens: int, store: CandidateStore, *, seed: int = 0, progress: Progress | None = None
) -> Outcome:
    """`judge(shortlist(ranked, 4), fit, tokens=2_000_000, store=store).winner`: short training decides.

    `fit(candidate, tokens)` trains a fresh student on so many tokens and gives a mapping with at least "loss" after it.
    The loss before training does not tell the best student (Minitron-SSM, table 2; MiniPuzzle, table 6).
    Raises `ConfigError` for an empty shortlist, `TrainingError` when no contender ends with a finite loss.
    """
    if not contenders:
        raise ConfigError("There is no candidate to judge: the shortlist is empty.")
    before = sorted(contenders, key=lambda each: each.loss)
    after: list[Ranked] = []
    for number, each in enumerate(before, 1):
        if progress:
            progress(f"short training {number}/{len(before)}: {each.candidate.describe()}")
        result = _kept(store, each.candidate, f"fit {tokens}", seed, lambda candidate=each.candidate: fit(candidate, tokens))
        after.append(Ranked(each.candidate, result))
    order = sorted(range(len(before)), key=lambda place: after[place].loss)
    if not math.isfinite(after[order[0]].loss):
        raise TrainingError("No contender has a finite loss after short training; lower the learning rate or look at the text.")
    rows = (Contender(before[p].candidate, before[p].result, after[p].result, p + 1, rank) for rank, p in enumerate(order, 1))
    return Outcome(tuple(rows), _agreement([each.loss for each in before], [each.loss for each in after]))


def _kept(store: CandidateStore, candidate: Candidate, stage: str, seed: int, measure: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    result = store.get(candidate.key, stage, seed)
    if result is None:
        result = dict(measure())
        assert "loss" in result, f"a result needs a loss, it has {', '.join(result)}"
        store.put(candidate.key, stage, result, seed)
    return result


def _difference(one: Candidate, other: Candidate) -> float:
    """The largest relative difference of any width or layer count."""
    left, right = one.shape, other.shape
    return max(1 - min(left.get(name, 0), right.get(name, 0)) / max(left.get(name, 0), right.get(name, 0)) for name in left | right)


def _agreement(before: list[float], after: list[float]) -> float | None:
    tau = float(kendalltau(before, after)[0]) if len(before) > 1 else math.nan  # type: ignore[arg-type]
    return None if math.isnan(tau) else tau
