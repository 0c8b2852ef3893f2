"""How often a reward model ranks two answers right, by subset and category, with intervals; and how far it is from ratings.

As RewardBench has it: a pair is right when the better answer scores higher, a tie is wrong, a category is the mean over its pairs, and
the whole is the mean of the categories. Subsets without a known category make the whole by their pairs.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from amaru.align.comparisons import Comparison, Comparisons, weighted
from amaru.align.reading import read, records
from amaru.align.reward.judging import conversation
from amaru.align.reward.labels import counted
from amaru.data.corpus import find
from amaru.data.files import Problem
from amaru.errors import ConfigError, DataError
from amaru.eval.estimate import Estimate, Score, difference, estimate
from amaru.models.reward.attributes import PUBLISHED, SCALAR, Attributes
from amaru.models.reward.scorer import Scored
from amaru.recipes.reward.categories import CATEGORY, LLMBAR, SUBSETS, weights_of
from amaru.recipes.reward.scoring import KeptScorer, Unscored


class Ranked(NamedTuple):
    """A pair of answers: its subset, where it stands, and by how much the better one scored higher."""

    subset: str
    source: str
    gap: float


class Scores(NamedTuple):
    """What a reward model said of some comparisons; `unscored` names rows that it could not read, `even` counts those that rank nothing."""

    ranked: list[Ranked]
    rated: list[tuple[Mapping[str, float], Scored]]
    unscored: list[str]
    even: int


def evaluate(
    data: Sequence[str], scorer: KeptScorer, against: KeptScorer | None = None, better_by: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """`evaluate(["llmbar/*.json"], KeptScorer("runs/reward/model"))`: figures of accuracy, and of ratings where the data has some.

    `better_by` are weights of the attributes that say which of two rated answers is better; None: those of the reward model, or those
    published for one that only ranks. `against` is a second model, on the same pairs. Raises `DataError` when there is nothing to rank
    or to compare with a rating.
    """
    found, subsets = read(data, least=1), subsets_of(data)
    weights = better_by or (PUBLISHED if scorer.scorer.attributes.names == SCALAR else scorer.scorer.attributes.weights)
    scores = scored(found, subsets, scorer, weights)
    told: dict[str, Any] = {"data": str(found), "dropped": [each.sentence for each in found.dropped], "unscored": scores.unscored}
    told |= {"even": scores.even, "accuracy": accuracy(scores.ranked), "ratings": ratings(scores.rated, scorer.scorer.attributes)}
    told["not_told"] = [name for name in counted(found.found) if name not in scorer.scorer.attributes.names]
    if not scores.ranked and not told["ratings"]:
        reasons = scores.unscored[:1] or ["no answer is said to be better than another, and none is rated by an attribute of the model."]
        raise DataError(f"There is nothing to evaluate in {', '.join(data)}: {reasons[0]}")
    if against is not None:
        told["against"] = _beside(scores, scored(found, subsets, against, weights))
    return told


def subsets_of(data: Sequence[str]) -> dict[str, str]:
    """The subset of each row by its place: what the row says, else its file's name, or RewardBench's for a file of LLMBar."""
    found = {}
    for file in find(list(data)).files:
        for source, record in records(file):
            said = None if isinstance(record, Problem) else record.get("subset")
            found[source] = said if isinstance(said, str) and said else LLMBAR.get(Path(file).stem, Path(file).stem)
    return found


def scored(found: Comparisons, subsets: Mapping[str, str], scorer: KeptScorer, weights: Mapping[str, float]) -> Scores:
    """Every answer of every comparison, scored; a comparison of which one answer cannot be read ranks nothing, and is named."""
    some = [_ordered(each, weights) for each in found.found]
    asked = [conversation(each, index) for each in some for index in range(len(each.answers))]
    results, told = iter(scorer(asked)), Scores([], [], [], 0)
    even = 0
    for each in some:
        answers = [next(results) for _ in each.answers]
        read = [answer for answer in answers if not isinstance(answer, Unscored)]
        told.unscored.extend(f"{each.source}: {answer.sentence}" for answer in answers if isinstance(answer, Unscored))
        told.rated.extend((said.attributes, got) for said, got in zip(each.answers, answers, strict=True) if isinstance(got, Scored))
        if len(read) == len(answers):
            gaps = [read[better].score - read[worse].score for better, worse in each.pairs]
            told.ranked.extend(Ranked(subsets.get(each.source, ""), each.source, gap) for gap in gaps)
            even += len(answers) > 1 and not gaps
    return told._replace(even=even)


def accuracy(ranked: Sequence[Ranked]) -> dict[str, Any] | None:
    """Subsets, categories of RewardBench where there are some, and the whole; each a share with its 95 % interval."""
    if not ranked:
        return None
    subsets = defaultdict(list)
    for each in ranked:
        subsets[each.subset].append(each)
    told = {name: _told([_right(each) for each in some]) | {"ties": sum(not each.gap for each in some)} for name, some in subsets.items()}
    weights = weights_of({name: len(some) for name, some in subsets.items()})
    known: dict[str, list[Score]] = defaultdict(list)
    for name, some in subsets.items():
        if name in CATEGORY:
            known[CATEGORY[name]] += [_right(each, weights[name]) for each in some]
    categories = {name: _told(known[name]) | {"of_subsets": _coverage(name, subsets)} for name in SUBSETS if name in known}
    every = all(name in CATEGORY for name in subsets)
    whole = _mean_of([estimate(known[name]) for name in categories]) if every else estimate([_right(each) for each in ranked])
    how = "the mean of the categories" if every else "all pairs alike"
    return {"subsets": told, "categories": categories, "whole": whole._asdict() | {"is": how}, "ties": sum(not each.gap for each in ranked)}


def ratings(rated: Sequence[tuple[Mapping[str, float], Scored]], attributes: Attributes) -> dict[str, dict[str, float | None]]:
    """For each attribute that was rated: how many labels, the mean squared error, and the correlation."""
    found = {}
    for name in attributes.names:
        pairs = [(said[name], got.attributes[name]) for said, got in rated if name in said]
        if pairs:
            both = torch.tensor(pairs, dtype=torch.float64).T
            varied = bool((both.amax(1) > both.amin(1)).all())
            correlation = torch.corrcoef(both)[0, 1].item() if varied else None
            found[name] = {"labels": len(pairs), "error": (both[0] - both[1]).square().mean().item(), "correlation": correlation}
    return found


def _ordered(comparison: Comparison, weights: Mapping[str, float]) -> Comparison:
    """Rated answers in the order that the weights make of their attributes, where nobody said which is better."""
    if comparison.pairs or len(comparison.answers) < 2:
        return comparison
    (found,) = weighted([comparison], {name: weight for name, weight in weights.items() if weight})
    return found


def _right(each: Ranked, weight: float = 1.0) -> Score:
    return Score(float(each.gap > 0), weight)


def _told(scores: Sequence[Score]) -> dict[str, Any]:
    return estimate(scores)._asdict()


def _coverage(category: str, subsets: Mapping[str, Any]) -> str:
    there = Counter(name in subsets for name in SUBSETS[category])[True]
    return f"{there} of {len(SUBSETS[category])}"


def _mean_of(parts: Sequence[Estimate]) -> Estimate:
    """The mean of independent shares; half its interval is as with errors that add in squares."""
    mean = sum(each.mean for each in parts) / len(parts)
    below, above = (math.sqrt(sum(half**2 for half in halves)) / len(parts) for halves in zip(*map(_halves, parts), strict=True))
    return Estimate(mean, mean - below, mean + above, sum(each.count for each in parts))


def _halves(each: Estimate) -> tuple[float, float]:
    return each.mean - each.low, each.high - each.mean


def _beside(first: Scores, second: Scores) -> dict[str, Any]:
    """The other model on the same pairs, and whether the two differ."""
    if [each.source for each in first.ranked] != [each.source for each in second.ranked]:
        raise ConfigError("The two models did not read the same answers, so their accuracies cannot be compared; give a smaller --longest.")
    found = difference([_right(each) for each in second.ranked], [_right(each) for each in first.ranked])
    return {"accuracy": accuracy(second.ranked), "difference": found._asdict()}
