"""What the cells of `amaru reproduce tied-lora` say: a verdict on each claim, computed from their records and nothing else."""

from collections.abc import Iterable, Mapping, Sequence
from math import exp
from pathlib import Path
from statistics import mean
from typing import Any

from amaru.config import from_dict
from amaru.config.records import read_record
from amaru.recipes.reproduce.intervals import interval
from amaru.recipes.reproduce.judging import HOLDS, NOT, PART, UNDECIDED, UNFINISHED, above, judgement
from amaru.recipes.reproduce.tied_lora import HYBRID_NAME, ONE_LAYER, TRANSFORMER_NAME, Cell, TiedLoraTrials, before, cells

Records = Mapping[Cell, Mapping[str, Any]]


def judge(directory: Path) -> dict[str, Any]:
    """`judge(Path("runs/reproduce-tied-lora"))["claims"]`: every claim with its verdict; scores and sizes of all cells beside."""
    recipe = from_dict(TiedLoraTrials, read_record(directory / "run.json")["recipe"])
    wanted = list(cells(recipe))
    records = {cell: read_record(path) for cell in wanted if (path := directory / f"cell-{cell.name}.json").exists()}
    claims = [_close(recipe, records, base) for base in recipe.bases]
    claims += [_stable(recipe, records, base) for base in recipe.bases]
    claims += [_others_fall(recipe, records), _depth(recipe, records)]
    return judgement(
        claims,
        [cell.name for cell in wanted if cell not in records],
        cells=[{**record, "score": score(recipe, cell, record)} for cell, record in records.items()],
        before=_before(recipe, directory),
    )


def score(recipe: TiedLoraTrials, cell: Cell, record: Mapping[str, Any]) -> float:
    return scored_as(recipe.tasks[cell.task].score, record["answers"])


def scored_as(kind: str, answers: Mapping[str, Any]) -> float:
    """Higher is better; likelihood is the geometric mean of the tokens' probabilities."""
    return exp(-answers["loss"]) if kind == "likelihood" else answers[kind]


def _before(recipe: TiedLoraTrials, directory: Path) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for base in recipe.bases:
        for task, settings in recipe.tasks.items():
            path = directory / f"answers-{before(base, task)}.json"
            if path.exists():
                found.setdefault(base, {})[task] = scored_as(settings.score, read_record(path))
    return found


def gaps(recipe: TiedLoraTrials, records: Records, one: Iterable[Cell], other: Mapping[str, Any]) -> list[float]:
    """Relative gaps of score between cells and the same ones changed, such as `{"method": "LoRA"}`, where both are there."""
    pairs = [(cell, cell._replace(**other)) for cell in one]
    there = [(a, b) for a, b in pairs if a in records and b in records]
    return [score(recipe, a, records[a]) / max(score(recipe, b, records[b]), 1e-9) - 1 for a, b in there]


def _close(recipe: TiedLoraTrials, records: Records, base: str) -> dict[str, Any]:
    """TL6 beside LoRA: the mean over tasks of each seed's gap, and an interval over seeds."""
    at = {seed: [Cell(base, task, "TL6", recipe.rank, seed) for task in recipe.tasks] for seed in recipe.seeds}
    by_seed = [mean(found) for some in at.values() if len(found := gaps(recipe, records, some, {"method": "LoRA"})) == len(some)]
    one = next((cell for some in at.values() for cell in some if {cell, cell._replace(method="LoRA")} <= records.keys()), None)
    share = None if one is None else records[one]["trained"] / records[one._replace(method="LoRA")]["trained"]
    numbers = "" if share is None else f" with {share:.1%} of its numbers"
    by_task = {
        task: gaps(recipe, records, [Cell(base, task, "TL6", recipe.rank, seed) for seed in recipe.seeds], {"method": "LoRA"})
        for task in recipe.tasks
    }
    across = "across Mamba layers " if base == HYBRID_NAME else ""
    return _claim(
        f"TL6 within {recipe.within:.0%} of LoRA at rank {recipe.rank}, {base}",
        by_seed,
        recipe.within,
        f"on the {base} TL6 {across}scores {{gap}} beside LoRA{numbers}",
        share=share,
        tasks={task: mean(found) for task, found in by_task.items() if found},
    )


def _stable(recipe: TiedLoraTrials, records: Records, base: str) -> dict[str, Any]:
    """TL6 at its worst other rank beside the common one."""
    first = next(iter(recipe.tasks))
    found = {
        rank: gaps(recipe, records, [Cell(base, first, "TL6", rank, seed) for seed in recipe.seeds], {"rank": recipe.rank})
        for rank in recipe.ranks
    }
    whole = {rank: some for rank, some in found.items() if len(some) == len(recipe.seeds)}
    worst = min(whole, key=lambda rank: mean(whole[rank])) if len(whole) == len(recipe.ranks) else None
    span = f"ranks {min((*recipe.ranks, recipe.rank))} to {max((*recipe.ranks, recipe.rank))}"
    return _claim(
        f"TL6 is stable over {span}, {base}",
        [] if worst is None else whole[worst],
        recipe.within,
        f"on the {base} TL6 is at its worst at rank {worst}, {{gap}} beside rank {recipe.rank}",
        ranks={str(rank): mean(some) for rank, some in whole.items()},
    )


def _others_fall(recipe: TiedLoraTrials, records: Records) -> dict[str, Any]:
    """The other tied methods at the high rank beside the common one: the claim is that they fall, by more than `within`."""
    first, tied = next(iter(recipe.tasks)), [method for method in recipe.others if method != ONE_LAYER]
    found = {
        method: gaps(recipe, records, [Cell(TRANSFORMER_NAME, first, method, recipe.high, s) for s in recipe.seeds], {"rank": recipe.rank})
        for method in tied
    }
    whole = {method: some for method, some in found.items() if len(some) == len(recipe.seeds)}
    named = f"Other tied methods fall from rank {recipe.rank} to {recipe.high}, {TRANSFORMER_NAME}"
    if len(whole) < len(tied):
        return {"claim": named, "verdict": UNFINISHED, "sentence": f"{named}: unfinished.", "gap": None, "interval": None, "methods": {}}
    bounds = {method: interval(some) or [0.0, 0.0] for method, some in whole.items()}
    fell = [method for method, (_, high) in bounds.items() if high < -recipe.within]
    may = [method for method, (low, _) in bounds.items() if low < -recipe.within and method not in fell]
    verdict = HOLDS if len(fell) == len(tied) else PART if fell else UNDECIDED if may else NOT
    told = ", ".join(f"{method} {mean(some):+.1%}" for method, some in whole.items())
    names = ", ".join(fell) or "none"
    span = f"from rank {recipe.rank} to {recipe.high}"
    said = f"Of {len(tied)} other tied methods {names} falls by more than {recipe.within:.0%} {span} ({told})."
    return {"claim": named, "verdict": verdict, "sentence": said, "gap": None, "interval": None, "methods": bounds}


def _depth(recipe: TiedLoraTrials, records: Records) -> dict[str, Any]:
    """LoRA in one layer beside TL6, which has as many numbers: the claim is that it is worse."""
    first = next(iter(recipe.tasks))
    found = gaps(recipe, records, [Cell(TRANSFORMER_NAME, first, ONE_LAYER, recipe.rank, s) for s in recipe.seeds], {"method": "TL6"})
    bounds, named = interval(found), f"LoRA in one layer is worse than TL6 of its size, {TRANSFORMER_NAME}"
    if bounds is None:
        return {"claim": named, "verdict": UNFINISHED, "sentence": f"{named}: unfinished.", "gap": None, "interval": None}
    verdict = HOLDS if bounds[1] < 0 else NOT if bounds[0] > 0 else UNDECIDED
    said = f"LoRA in one layer of the {TRANSFORMER_NAME}, as large as TL6, scores {mean(found):+.1%} beside it ({_span(bounds)})."
    return {"claim": named, "verdict": verdict, "sentence": said, "gap": mean(found), "interval": bounds}


def _claim(named: str, found: Sequence[float], within: float, sentence: str, **more: Any) -> dict[str, Any]:
    """That gaps are above `-within`, by their interval over seeds."""
    bounds = interval(found)
    if bounds is None:
        return {"claim": named, "verdict": UNFINISHED, "sentence": f"{named}: unfinished.", "gap": None, "interval": None, **more}
    said = sentence.format(gap=f"{mean(found):+.1%}")
    said = f"{said[0].upper()}{said[1:]} ({_span(bounds)})."
    return {"claim": named, "verdict": above(bounds, -within), "sentence": said, "gap": mean(found), "interval": bounds, **more}


def _span(bounds: Sequence[float]) -> str:
    return f"95 % interval {bounds[0]:+.1%} to {bounds[1]:+.1%}"
