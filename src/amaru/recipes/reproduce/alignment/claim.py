"""All cells of all seeds, and the verdicts from their records."""

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from amaru.config import from_dict
from amaru.config.records import read_record
from amaru.models.checkpoint import fingerprint
from amaru.recipes.reproduce.alignment import arms, larger, rating
from amaru.recipes.reproduce.alignment.settings import AlignmentClaims
from amaru.recipes.reproduce.alignment.strand import Record, Strand
from amaru.recipes.reproduce.alignment.verdicts import VERDICTS, tables
from amaru.recipes.reproduce.judging import judgement
from amaru.recipes.reproduce.workers import Silence, workers
from amaru.recipes.run import Progress, Run

Measure = Callable[[Strand], Record]


def cells(recipe: AlignmentClaims) -> Iterator[tuple[str, Measure]]:
    """Names and measurements of one seed's cells, in the order they are made."""
    yield "stages", Strand.stages
    for rewards, loss in itertools.product(arms.REWARDS, arms.LOSSES):
        yield f"arm-{loss}-{rewards}", partial(arms.measure, loss=loss, rewards=rewards)
    for prompts in recipe.rated:
        yield f"reward-{prompts}", partial(rating.measure, prompts=prompts)
    for teacher in larger.TEACHERS:
        yield f"larger-{teacher}", partial(larger.measure, teacher=teacher)


def make(recipe: AlignmentClaims, run: Run, jobs: int = 1) -> None:
    """Fill every cell that has no record yet, cell by cell over all seeds, `jobs` seeds at a time."""
    progress = run.progress if jobs == 1 else Silence()
    with workers(jobs) as hand_out:
        for name, _ in cells(recipe):
            waiting = {seed: hand_out(fill, recipe, seed, name, run.directory, progress) for seed in recipe.seeds}
            for seed, answer in waiting.items():
                answer()
                run.progress.note(f"{name} of seed {seed} is there")


def fill(recipe: AlignmentClaims, seed: int, name: str, directory: Path, progress: Progress) -> None:
    """One cell of one seed, in the seed's own run directory."""
    with Run(directory / f"seed{seed}", "reproduce-alignment-seed", recipe, progress) as run:
        strand = Strand(recipe, seed, run)
        measure = dict(cells(recipe))[name]
        made_from = {"start": fingerprint(strand.new("small")), "recipe": repr(recipe)}
        run.result(f"cell-{name}", made_from, lambda: {"seed": seed} | measure(strand), title=name)


def judge(directory: Path) -> dict[str, Any]:
    """The verdicts, from the records that are there: `judge(Path("runs/reproduce-alignment"))["claims"]`."""
    recipe = from_dict(AlignmentClaims, read_record(directory / "run.json")["recipe"])
    names = [name for name, _ in cells(recipe)]
    places = {(seed, name): directory / f"seed{seed}" / f"cell-{name}.json" for seed in recipe.seeds for name in names}
    records = {seed: {name: read_record(places[seed, name]) for name in names if places[seed, name].exists()} for seed in recipe.seeds}
    missing = [f"seed{seed}/{name}" for (seed, name), path in places.items() if not path.exists()]
    findings = [verdict(list(records.values()), recipe) for verdict in VERDICTS]
    return judgement(findings, missing, records=records, tables=tables(list(records.values()), recipe))
