"""`amaru eval --tasks` and `--suite`: scores of tasks, beside those of another model or those that a paper prints."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

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


def judge_of(url: str | None, model: str | None, key: str | None, cache: str) -> Any:
    """The judge that flags name, whose answers lie beside the judged items; None without flags."""
    from amaru.errors import ConfigError

    if url is None and model is None:
        return None
    if url is None or model is None:
        raise ConfigError("A judge is an endpoint and a model there; give both --judge URL and --judge-model NAME.")
    from amaru.recipes.judge import EndpointJudge
    from amaru.synth.endpoint import Endpoint, Sampling

    kept = Path("runs/evaluations.sqlite") if cache == "none" else Path(cache)
    sampling = Sampling(temperature=0.0, max_tokens=2048)
    return EndpointJudge(Endpoint(url=url, model=model, key=key, sampling=sampling), kept.with_suffix(".judge.sqlite"))


def put(checkpoint: Path, against: Path | None, settings: dict[str, Any], judge: Any, written: "Written") -> None:
    """Put the tasks to one or two checkpoints, and print what came of it."""
    from amaru.recipes.evaluate import TasksRecipe, run_tasks

    recipe = TasksRecipe(**settings)
    with LiveLine() as live:
        facts = run_tasks(recipe, checkpoint, against, live.update, judge)
        written.keep(recipe, facts, live)
    emit(facts, json=written.json, people=show)


def fill(suite: str, checkpoint: Path, files: Path, settings: dict[str, Any], judge: Any, written: "Written") -> None:
    """Fill the tables of a suite, and print them."""
    from amaru.recipes.suites import SuiteRecipe, run_suite

    recipe = SuiteRecipe(suite=suite, files=str(files), **settings)
    with LiveLine() as live:
        facts = run_suite(recipe, checkpoint, judge, live.update)
        written.keep(recipe, facts, live)
    emit(facts, json=written.json, people=show_suite)


class Written(NamedTuple):
    """Where results go besides stdout: an HTML file, a run directory that `amaru report` draws again."""

    report: Path | None
    out: Path | None
    json: bool

    def keep(self, recipe: Any, facts: dict[str, Any], live: LiveLine) -> None:
        """Write what is wanted, and add where it is to the facts."""
        from amaru.recipes.evaluate import keep
        from amaru.report.evaluation import page_of
        from amaru.report.runs import write_report

        if self.report:
            page_of(facts).save(self.report)
        if self.out:
            keep(self.out, recipe, live, dict(facts))
            write_report(self.out)
        if self.report or self.out:
            facts["report"] = str(self.report or (self.out or Path()) / "report.html")


def show(facts: Mapping[str, Any], console: Console) -> None:
    from amaru.report.evaluation import place, side_by_side, table, written

    told = table(facts)
    grid = Table(*told.headers, box=None, pad_edge=False)
    for row in told.rows:
        grid.add_row(*(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row))
    console.print(grid)
    if kept := sum(row["kept"] for row in facts["tasks"]):
        console.print(f"{kept:,} items were kept from before.")
    for row in facts["tasks"]:
        if "cells" in row:
            cells = ", ".join(f"{place(name)}: {written(row['leads'], cell['mean'])}" for name, cell in row["cells"].items())
            console.print(f"{row['task']}: {cells}", soft_wrap=True)
        if "duel" in row:
            console.print(side_by_side(row), soft_wrap=True)
    for note in facts["notes"]:
        console.print(note, soft_wrap=True)
    if "report" in facts:
        console.print(f"report: {facts['report']}", soft_wrap=True)


def show_suite(facts: Mapping[str, Any], console: Console) -> None:
    from amaru.report.evaluation import suite_table

    told = suite_table(facts)
    grid = Table(*told.headers, box=None, pad_edge=False)
    for row in told.rows:
        grid.add_row(*(str(cell) for cell in row))
    console.print(grid)
    for sentence in (*facts["missing"], *(f"{row['name']}: {row['note']}." for row in facts["rows"] if row["note"])):
        console.print(sentence, soft_wrap=True)
    if "report" in facts:
        console.print(f"report: {facts['report']}", soft_wrap=True)
