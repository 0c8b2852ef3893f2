"""From a parent and a budget to a distilled student: `amaru compress`, the stages of MiniPuzzle as saved artifacts.

parent -> scores -> shapes that fit -> zero-shot ranking -> short distillation of the best few -> plan -> cut
       -> certificate -> long distillation -> student, compared with its parent
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from amaru.compress.budget import Budget, in_words
from amaru.compress.plan import Plan
from amaru.compress.proof import prove
from amaru.config import fingerprint_file, to_dict
from amaru.models.checkpoint import fingerprint
from amaru.models.decoder import DecoderConfig
from amaru.recipes.compare import quality, speed
from amaru.recipes.compression import CompressRecipe
from amaru.recipes.distill import distil_student
from amaru.recipes.run import Run
from amaru.recipes.search import Search
from amaru.recipes.text import Text


@dataclass(frozen=True)
class Compressed:
    """The finished student and what it is compared with."""

    student: Path
    plan: Plan
    budget: Budget
    text: Text
    rows: dict[str, dict[str, Any]]


def compress(recipe: CompressRecipe, run: Run) -> Compressed:
    """Run every stage that is not finished yet in the run directory."""
    search = Search(recipe, run)
    plan = search.plan()
    pruned = run.keep(
        "pruned",
        search.origin | {"plan": fingerprint_file(run.path("plan.safetensors"))},
        lambda path: search.write_pruned(plan, path),
        lambda path: path,
        title="cut",
        describe=lambda path: _narrowed(search.config, plan),
    )
    _prove(search, plan, pruned)
    student = distil_student(run, "student", Path(recipe.checkpoint), pruned, recipe.learning, recipe.seed, search.text)
    checkpoints = {"parent": Path(recipe.checkpoint), "pruned": pruned, "student": student}
    rows = compare(recipe, run, checkpoints, search.text)
    run.write("comparison.json", rows)
    if search.times is not None:
        _check_prediction(search, plan, rows)
    return Compressed(student, plan, search.budget, search.text, rows)


def _prove(search: Search, plan: Plan, pruned: Path) -> None:
    """The certificate of the cut, `certificate.json`: read again from disk, whatever made it."""
    parent, taught = search.recipe.checkpoint, search.puzzle is not None and search.puzzle.taught

    def make() -> dict[str, Any]:
        found = prove(plan, parent, pruned, taught=taught, report=search.run.progress.update)
        return {"verdict": found.verdict, "holds": found.holds, **to_dict(found)}

    made_from = search.origin | {"plan": plan.key, "pruned": fingerprint(pruned)}
    search.run.progress.note(f"  the cut {search.run.result('certificate', made_from, make)['verdict']}")


def _check_prediction(search: Search, plan: Plan, rows: dict[str, dict[str, Any]]) -> None:
    """What was predicted of the winner beside what was measured, in seconds; kept as `prediction.json`."""
    timing, measured = search.recipe.timing, rows["student"]
    seconds = {"prefill": timing.prompt / measured["prefill"], "decode": timing.batch / measured["decode"]}
    found = {}
    for name, taken in seconds.items():
        predicted = getattr(plan.candidate, name)
        found[name] = {"predicted": predicted, "measured": taken, "off": predicted / taken - 1}
        search.run.progress.note(f"  {name}: predicted {in_words(predicted)}, measured {in_words(taken)} ({predicted / taken - 1:+.0%})")
    assert search.times is not None
    search.run.write("prediction.json", {"times": search.times.describe(), **found})


def compare(recipe: CompressRecipe, run: Run, checkpoints: dict[str, Path], text: Text) -> dict[str, dict[str, Any]]:
    """Quality of each checkpoint against the parent, then speed of each: timings come last and together."""
    parent = Path(recipe.checkpoint)
    rows = {name: quality(run, name, path, text, recipe.learning.dtype, teacher=parent) for name, path in checkpoints.items()}
    return {name: rows[name] | speed(run, name, path, recipe.timing) for name, path in checkpoints.items()}


def _narrowed(parent: DecoderConfig, plan: Plan) -> str:
    """How many of the parent's tensors were dropped with their layer, cut narrower, or kept as they are."""
    student = plan.candidate.config
    before, after = parent.tensors(), student.tensors()
    same = sum(spec.layout.shape(axes) == origin for (spec, axes), origin in zip(after.values(), _origins(parent, plan), strict=True))
    return f"{len(before)} tensors: {len(before) - len(after)} dropped with their layers, {len(after) - same} narrowed, {same} whole"


def _origins(parent: DecoderConfig, plan: Plan) -> list[tuple[int, ...]]:
    """The parent's shape of each of the student's tensors."""
    whole = replace(parent, layers=tuple(parent.layers[index] for index in plan.candidate.layers))
    return [spec.layout.shape(axes) for spec, axes in whole.tensors().values()]
