"""Verdicts, from the records of the cells and nothing else: a function per claim."""

from collections.abc import Callable, Mapping, Sequence
from statistics import mean
from typing import Any

from amaru.recipes.reproduce.alignment.settings import AlignmentClaims
from amaru.recipes.reproduce.alignment.strand import ROUNDS, SFT
from amaru.recipes.reproduce.intervals import interval
from amaru.recipes.reproduce.judging import UNFINISHED, Found, finding, positive, together

Seeds = Sequence[Mapping[str, Mapping[str, Any]]]  # for each seed its records, by the name of the cell
FIRST = ROUNDS[1]  # of RPO
Verdict = Callable[[Seeds, AlignmentClaims], Found]


def stages(seeds: Seeds, recipe: AlignmentClaims) -> Found:
    """DPO keeps what fine-tuning has, the first RPO adds the most, later ones a little."""
    claim = "DPO and rounds of RPO raise the share of requests that are answered as asked, the first round of RPO the most (2406.11704)."
    found = [each["stages"]["stages"] for each in seeds if "stages" in each]
    passed = {name: [each[name]["passed"] for each in found] for name in (SFT, *ROUNDS)}
    gains = {name: _less(passed[name], passed[before]) for before, name in zip((SFT, *ROUNDS), ROUNDS, strict=False)}
    whole = _less(passed[ROUNDS[-1]], passed[SFT])
    if interval(whole) is None:
        return finding(claim, UNFINISHED, "Unfinished: fewer than two seeds have all stages.", passed=passed)
    others = [max(each) for each in zip(*(values for name, values in gains.items() if name != FIRST), strict=True)]
    lead = _less(gains[FIRST], others)
    told = ", ".join(f"{name} {mean(values):.1%}" for name, values in passed.items())
    sentence = f"Passed: {told}. From {SFT} to the last round {_told(whole)} points, {FIRST} beside the best other {_told(lead)}."
    return finding(claim, together((positive(interval(whole)), positive(interval(lead)))), sentence, passed=passed, gains=gains)


def losses(seeds: Seeds, recipe: AlignmentClaims) -> Found:
    """RPO beside DPO, at equal steps on the same pairs."""
    claim = "At equal steps on the same answers RPO is better than DPO, with exact rewards and with noisy ones (2406.11704, 2502.00203)."
    gaps = {rewards: _gaps(seeds, f"arm-rpo-{rewards}", f"arm-dpo-{rewards}") for rewards in ("clean", "noisy")}
    if any(interval(values) is None for values in gaps.values()):
        return finding(claim, UNFINISHED, "Unfinished: fewer than two seeds have all four.", gaps=gaps)
    passed = {name: _passed(seeds, f"arm-{name}") for name in ("dpo-clean", "rpo-clean", "dpo-noisy", "rpo-noisy")}
    told = ", ".join(f"{name} {mean(values):.1%}" for name, values in passed.items())
    sentence = f"Passed on average: {told}. RPO less DPO: {_told(gaps['clean'])} points with exact rewards, {_told(gaps['noisy'])} noisy."
    return finding(claim, together(positive(interval(values)) for values in gaps.values()), sentence, passed=passed, gaps=gaps)


def rewards(seeds: Seeds, recipe: AlignmentClaims) -> Found:
    """A reward model ranks better the more it has seen."""
    claim = "A reward model ranks answers better the more data it has (2406.08673)."
    cells = {prompts: f"reward-{prompts}" for prompts in recipe.rated}
    accuracy = {prompts: [each[cell]["accuracy"] for each in seeds if cell in each] for prompts, cell in cells.items()}
    gains = _gaps(seeds, cells[recipe.rated[-1]], cells[recipe.rated[0]], "accuracy")
    if interval(gains) is None:
        return finding(claim, UNFINISHED, "Unfinished: fewer than two seeds have all sizes.", accuracy=accuracy)
    told = ", ".join(f"{prompts} prompts {mean(values):.1%}" for prompts, values in accuracy.items() if values)
    sentence = f"Pairs ranked right on average: {told}. From the fewest to the most {_told(gains)} points."
    return finding(claim, positive(interval(gains)), sentence, accuracy=accuracy, gains=gains)


def larger(seeds: Seeds, recipe: AlignmentClaims) -> Found:
    """A small aligned model's data makes a larger model better than itself."""
    claim = "A small aligned model makes the data that aligns a larger one better than itself (2406.11704, iterative weak-to-strong)."
    whole = [each for each in seeds if {"stages", "larger-aligned"} <= each.keys()]
    gains = [each["larger-aligned"]["passed"] - each["stages"]["stages"][ROUNDS[-1]]["passed"] for each in whole]
    beside = _gaps(seeds, "larger-aligned", "larger-careless")
    if interval(gains) is None:
        return finding(claim, UNFINISHED, "Unfinished: fewer than two seeds have both models.", gains=gains)
    sentence = f"The larger model less its small teacher: {_told(gains)} points"
    sentence += f"; less the same model on the small one's own data: {_told(beside)}." if interval(beside) else "."
    return finding(claim, positive(interval(gains)), sentence, gains=gains, beside=beside)


VERDICTS: tuple[Verdict, ...] = (stages, losses, rewards, larger)


def tables(seeds: Seeds, recipe: AlignmentClaims) -> list[Found]:
    """What every model passed, seed by seed: for the page."""
    rows = [[name, *(each["stages"]["stages"][name]["passed"] if "stages" in each else None for each in seeds)] for name in (SFT, *ROUNDS)]
    cells = [f"arm-{loss}-{rewards}" for rewards in ("clean", "noisy") for loss in ("dpo", "rpo")]
    cells += ["larger-careless", "larger-aligned"]
    rows += [[cell, *(each[cell]["passed"] if cell in each else None for each in seeds)] for cell in cells]
    ranked = [[prompts, *(each.get(f"reward-{prompts}", {}).get("accuracy") for each in seeds)] for prompts in recipe.rated]
    named = [f"seed {seed}" for seed in recipe.seeds]
    return [
        {"title": "Held-out requests answered as asked", "headers": ["model", *named], "rows": rows},
        {"title": "Pairs that a reward model ranks right", "headers": ["prompts it learned from", *named], "rows": ranked},
    ]


def _passed(seeds: Seeds, cell: str) -> list[float]:
    return [each[cell]["passed"] for each in seeds if cell in each]


def _gaps(seeds: Seeds, one: str, other: str, key: str = "passed") -> list[float]:
    """How much larger it is in cell `one`, over the seeds that have both."""
    return [each[one][key] - each[other][key] for each in seeds if one in each and other in each]


def _less(one: Sequence[float], other: Sequence[float]) -> list[float]:
    return [first - second for first, second in zip(one, other, strict=True)]


def _told(values: Sequence[float]) -> str:
    bounds = interval(values)
    assert bounds is not None
    return f"{100 * mean(values):+.1f} ({100 * bounds[0]:+.1f} to {100 * bounds[1]:+.1f})"
