"""All cells of all parents, and the verdicts from their records."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from amaru.config import from_dict
from amaru.config.records import read_record
from amaru.recipes.reproduce.compression import axes, heads, puzzle, scratch, speeds, states
from amaru.recipes.reproduce.compression.settings import CompressionClaims, SizeName
from amaru.recipes.reproduce.compression.strand import Record, Strand
from amaru.recipes.reproduce.compression.verdicts import VERDICTS
from amaru.recipes.reproduce.judging import judgement
from amaru.recipes.reproduce.workers import Silence, workers
from amaru.recipes.run import Progress, Run

Measure = Callable[[Strand], Record]


def strands(recipe: CompressionClaims) -> Iterator[tuple[SizeName, int]]:
    """Parents in the order they are worked on."""
    for seed in recipe.small.seeds:
        yield "small", seed
    for seed in recipe.large.seeds:
        yield "large", seed


def cells(recipe: CompressionClaims, size: SizeName) -> Iterator[tuple[str, Measure]]:
    """Names and measurements of one parent's cells, in the order they are made; the large parent confirms the first three claims."""
    parts = set(recipe.parts) if size == "small" else {*recipe.parts} & {"heads", "axes", "scratch"}
    if "heads" in parts:
        yield from ((f"heads-{variant}", partial(heads.measure, variant=variant)) for variant in heads.VARIANTS)
    if "axes" in parts:
        yield from ((f"axes-{variant}", partial(axes.measure, variant=variant)) for variant in axes.SPACES)
    if "scratch" in parts:
        first, *more = recipe.multiples
        yield from ((f"scratch-{first}-{lr:g}", partial(scratch.measure, multiple=first, lr=lr)) for lr in recipe.scratch_lrs)
        yield from ((f"scratch-{multiple}", partial(scratch.at_best_rate, multiple=multiple)) for multiple in more)
    if "states" in parts:
        yield "states", states.measure
    if "puzzle" in parts:
        for budget, method in itertools.product(puzzle.BUDGETS, puzzle.METHODS):
            yield f"puzzle-{budget}-{method}", partial(puzzle.measure, budget=budget, method=method)


def make(recipe: CompressionClaims, run: Run, jobs: int = 1) -> None:
    """Fill every cell that has no record yet, `jobs` parents at a time; then take speeds, with nothing beside them."""
    progress = run.progress if jobs == 1 else Silence()
    with workers(jobs) as hand_out:
        answers = {_name(*each): hand_out(fill, recipe, *each, run.directory, progress) for each in strands(recipe)}
        for name, answer in answers.items():
            run.progress.note(f"{name}: {answer()} cells")
    for size, seed in strands(recipe) if "speeds" in recipe.parts else ():
        with strand_in(recipe, size, seed, run.directory, run.progress) as strand:
            speeds.measure_all(strand)


def fill(recipe: CompressionClaims, size: SizeName, seed: int, directory: Path, progress: Progress) -> int:
    """The cells of one parent; returns how many there are."""
    with strand_in(recipe, size, seed, directory, progress) as strand:
        made = [strand.record(name, partial(measure, strand)) for name, measure in cells(recipe, size)]
    return len(made)


@contextmanager
def strand_in(recipe: CompressionClaims, size: SizeName, seed: int, directory: Path, progress: Progress) -> Iterator[Strand]:
    """A parent's own run directory below that of the claims, locked as any run is."""
    with Run(directory / _name(size, seed), "reproduce-compression-parent", recipe, progress) as run:
        yield Strand(recipe, size, seed, run)


def judge(kind: type[CompressionClaims], directory: Path) -> dict[str, Any]:
    """The verdicts, from the records that are there: `judge(CompressionClaims, Path("runs/reproduce-compression"))["claims"]`."""
    recipe = from_dict(kind, read_record(directory / "run.json")["recipe"])
    records: dict[SizeName, list[dict[str, Record]]] = {"small": [], "large": []}
    missing: list[str] = []
    for size, seed in strands(recipe):
        folder = directory / _name(size, seed)
        found = {name: _read(folder, name) for name, _ in cells(recipe, size)}
        missing += [f"{folder.name}/{name}" for name, record in found.items() if not record]
        records[size].append({name: record for name, record in found.items() if record})
    asked = ((name, verdict) for name, (part, verdict) in VERDICTS.items() if part in recipe.parts)
    findings = [verdict(records["small"], records["large"], recipe) | {"name": name} for name, verdict in asked]
    short = " ".join(f"{found['name']}: {found['verdict']}." for found in findings)
    return judgement(findings, missing, records=records) | {"sentence": short}


def _name(size: SizeName, seed: int) -> str:
    return f"{size}-seed{seed}"


def _read(folder: Path, cell: str) -> Record:
    """The record of a cell with its student's speeds, or nothing."""
    path = folder / f"cell-{cell}.json"
    if not path.exists():
        return {}
    record = read_record(path)
    return record | (speeds.ratios(folder, record["student"]) if "student" in record else {})
