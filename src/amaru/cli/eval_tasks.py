"""`amaru eval --tasks`: scores of tasks, beside those of another model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from amaru.cli.output import LiveLine, emit


def names(tasks: list[str], examples: Path | None, lengths: str, memory: str, cache: str) -> dict[str, Any]:
    """Settings of `TasksRecipe` from what people write."""
    from amaru.config.units import parse_bytes, parse_count

    return {
        "tasks": tuple(tasks),
        "examples": None if examples is None else str(examples),
        "lengths": tuple(parse_count(length) for length in lengths.split(",")),
        "memory": parse_bytes(memory),
        "cache": None if cache == "none" else cache,
    }


def put(checkpoint: Path, against: Path | None, settings: dict[str, Any], report: Path | None, json: bool) -> None:
    """Put the tasks to one or two checkpoints, and print what came of it."""
    from amaru.recipes.evaluate import TasksRecipe, run_tasks
    from amaru.report.evaluation import evaluation_page

    recipe = TasksRecipe(**settings)
    with LiveLine() as live:
        facts = run_tasks(recipe, checkpoint, against, live.update)
    if report:
        evaluation_page(facts).save(report)
        facts["report"] = report
    emit(facts, json=json, people=show)


def show(facts: Mapping[str, Any], console: Console) -> None:
    from amaru.report.evaluation import table

    told = table(facts)
    grid = Table(*told.headers, box=None, pad_edge=False)
    for row in told.rows:
        grid.add_row(*(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row))
    console.print(grid)
    if kept := sum(row["kept"] for row in facts["tasks"]):
        console.print(f"{kept:,} items were kept from before.")
    for row in facts["tasks"]:
        if "cells" in row:
            cells = ", ".join(f"{name.replace(' ', ' at ')}: {cell['mean']:.0%}" for name, cell in row["cells"].items())
            console.print(f"{row['task']}: {cells}", soft_wrap=True)
    for note in facts["notes"]:
        console.print(note, soft_wrap=True)
    if "report" in facts:
        console.print(f"report: {facts['report']}", soft_wrap=True)
