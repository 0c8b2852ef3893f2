"""Which shape wins: rank all by what they do untrained, train the most promising a little, and judge again, fewer and longer."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from scipy.stats import kendalltau

from amaru.compress.candidate import Candidate
from amaru.compress.store import CandidateStore
from amaru.errors import ConfigError, TrainingError

Progress = Callable[[str], None]
Evaluate = Callable[[Candidate], Mapping[str, Any]]
Fit = Callable[[Candidate, int], Mapping[str, Any]]
RankBy = Literal["loss", "teacher_kl", "accuracy", "teacher_agreement"]
MORE_IS_BETTER = ("accuracy", "teacher_agreement")


@dataclass(frozen=True)
class Ranked:
    """A candidate and what it scored: `result["loss"]`, and whatever else was measured; `by` is what it is ranked by."""

    candidate: Candidate
    result: dict[str, Any]
    by: RankBy = "loss"

    @property
    def loss(self) -> float:
        """Nats; what is not a number is infinite."""
        return math.inf if math.isnan(self.result["loss"]) else self.result["loss"]

    @property
    def key(self) -> float:
        """What to sort by, least first; what is not a number comes last."""
        value = self.result[self.by]
        return math.inf if math.isnan(value) else -value if self.by in MORE_IS_BETTER else value


@dataclass(frozen=True)
class Contender:
    """One candidate of the shortlist: its results and its ranks (from 1) among them before and after training.

    rounds   what it scored after each round of training that it took part in; `after` is the last of them
    """

    candidate: Candidate
    before: dict[str, Any]
    rounds: tuple[dict[str, Any], ...]
    rank_before: int
    rank_after: int

    @property
    def after(self) -> dict[str, Any]:
        return self.rounds[-1]


@dataclass(frozen=True)
class Outcome:
    """What a search found.

    contenders    the shortlist, best after training first
    kendall_tau   agreement of the two rankings, from -1 to 1; None for one contender
    """

    contenders: tuple[Contender, ...]
    kendall_tau: float | None

    @property
    def winner(self) -> Candidate:
        return self.contenders[0].candidate


def rank_zero_shot(
    candidates: Sequence[Candidate], evaluate: Evaluate, store: CandidateStore, *, by: RankBy = "loss", progress: Progress | None = None
) -> list[Ranked]:
    """`rank_zero_shot(candidates, evaluate, store, by="teacher_kl")`: all of them, the best first.

    `evaluate(candidate)` gives a mapping with at least "loss" (and `by`) of the student as it is cut, before any training; what the
    store knows is not evaluated again.
    """
    ranked = []
    for number, candidate in enumerate(candidates, 1):
        result = _kept(store, candidate, "zero-shot", 0, lambda candidate=candidate: evaluate(candidate))
        ranked.append(Ranked(candidate, result, by))
        if progress:
            progress(f"zero-shot {number}/{len(candidates)}: loss {result['loss']:.3f}, {candidate.describe()}")
    return sorted(ranked, key=lambda each: each.key)


def shortlist(ranked: Sequence[Ranked], count: int, *, difference: float = 0.1) -> list[Ranked]:
    """The best `count` whose shapes differ: each from every better one by at least `difference` in some width or count.

    Where fewer differ so much, the best of the others fill the list. It is the rank that chooses, never the size.
    """
    chosen: list[Ranked] = []
    for each in ranked:
        if len(chosen) < count and all(_difference(each.candidate, other.candidate) >= difference for other in chosen):
            chosen.append(each)
    chosen += [each for each in ranked if each not in chosen][: max(0, count - len(chosen))]
    return sorted(chosen, key=lambda each: each.key)


def judge(
    contenders: Sequence[Ranked],
    fit: Fit,
    tokens: int,
    store: CandidateStore,
    *,
    rounds: int = 1,
    seed: int = 0,
    progress: Progress | None = None,
) -> Outcome:
    """`judge(shortlist(ranked, 4), fit, tokens=2_000_000, store=store, rounds=2).winner`: short training decides.

    `fit(candidate, tokens)` trains a fresh student on so many tokens and gives a mapping with at least "loss" after it. In each of up
    to `rounds` rounds the better half goes on, with twice the tokens (successive halving), until one is left. The loss before training
    does not tell the best student (Minitron-SSM, table 2; MiniPuzzle, table 6). A round that the store knows is not trained again.

    Raises `ConfigError` for an empty shortlist, `TrainingError` when no contender ends with a finite loss.
    """
    if not contenders:
        raise ConfigError("There is no candidate to judge: the shortlist is empty.")
    before = sorted(contenders, key=lambda each: each.key)
    results: list[list[dict[str, Any]]] = [[] for _ in before]
    field = list(range(len(before)))
    for number in range(rounds):
        if number:
            field = field[: -(-len(field) // 2)]
        if number and len(field) == 1:
            break
        budget = tokens * 2**number
        for turn, place in enumerate(field, 1):
            candidate = before[place].candidate
            if progress:
                progress(f"short training, round {number + 1}, {turn}/{len(field)}: {candidate.describe()}")
            measure = partial(fit, candidate, budget)
            results[place].append(_kept(store, candidate, f"fit {budget}", seed, measure))
        field.sort(key=lambda place: _last_loss(results[place]))
    order = sorted(range(len(before)), key=lambda place: (-len(results[place]), _last_loss(results[place])))
    if not math.isfinite(_last_loss(results[order[0]])):
        raise TrainingError("No contender has a finite loss after short training; lower the learning rate or look at the text.")
    rows = (Contender(before[p].candidate, before[p].result, tuple(results[p]), p + 1, rank) for rank, p in enumerate(order, 1))
    return Outcome(tuple(rows), _agreement(order))


def _last_loss(results: Sequence[Mapping[str, Any]]) -> float:
    loss = results[-1]["loss"]
    return math.inf if math.isnan(loss) else loss


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


def _agreement(order: list[int]) -> float | None:
    """Kendall's tau of the order before (0, 1, 2, ...) and after."""
    return float(kendalltau(sorted(order), order)[0]) if len(order) > 1 else None  # type: ignore[arg-type]
