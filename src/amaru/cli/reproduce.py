"""`amaru reproduce`: a claim of a paper, tried here; without a name, where all of them stand."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from amaru.cli.output import Finding, JsonFlag, LiveLine, emit


def command(
    claim: Annotated[str | None, typer.Argument(help="Which claim; left out, all are listed with where they stand.")] = None,
    recipe: Annotated[Path | None, typer.Option(help="A YAML recipe to begin with; --set wins over it.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="Any setting, e.g. small.seeds=[0,1] or fp8.counted=layers.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory; the same one continues after the last finished cell.")] = None,
    jobs: Annotated[int, typer.Option(help="So many cells at a time, each with its share of the threads.", min=1)] = 1,
    judge: Annotated[bool, typer.Option("--judge", help="Run nothing; judge the records that are in --out.")] = False,
    records: Annotated[
        list[Path] | None, typer.Option(help="Where runs of claims are looked for, to list them; several times; 'runs' when left out.")
    ] = None,
    page: Annotated[Path | None, typer.Option(help="Also write the table of all claims to this Markdown file.")] = None,
    json: JsonFlag = False,
) -> None:
    """Try a claim of a paper on this machine: controlled runs, cell by cell, and a verdict from their records.

    Exit 1 when the verdict is not that the claim holds.
    """
    from amaru.errors import ConfigError

    if claim is None:
        if recipe or settings or out or judge or jobs > 1:
            raise ConfigError("Name the claim that these settings are for; `amaru reproduce` alone lists all of them.")
        _list(records or [Path("runs")], page, json)
        return
    if records or page:
        raise ConfigError(f"--records and --page are for all claims; leave {claim} out, or leave them out.")
    _try(claim, recipe, settings or [], out or Path("runs") / f"reproduce-{claim}", None if judge else jobs, json)


def _list(places: list[Path], page: Path | None, json: bool) -> None:
    from amaru.config import atomic_file
    from amaru.recipes.reproduce import standing

    found = standing.standings(places)
    if page:
        with atomic_file(page) as temporary:
            temporary.write_text(standing.page(found), encoding="utf-8")
    emit({"claims": found, **({"page": page} if page else {})}, json=json, people=_print_list)


def _try(claim: str, recipe: Path | None, settings: list[str], directory: Path, jobs: int | None, json: bool) -> None:
    """Fill the cells, `jobs` at a time (None: judge what is there), and tell the verdict."""
    from amaru.cli.settings import build_recipe
    from amaru.errors import ConfigError
    from amaru.recipes.reproduce.claims import claim_named, verdict
    from amaru.recipes.run import Run
    from amaru.report.runs import write_report

    chosen = claim_named(claim)
    if jobs is not None:
        if jobs > 1 and not chosen.side_by_side:
            raise ConfigError(f"The cells of {claim} are made one after the other; leave --jobs out.")
        resolved = build_recipe(chosen.recipe, recipe, {}, settings)
        with LiveLine() as progress, Run(directory, f"reproduce-{claim}", resolved, progress) as run:
            progress.note(f"{chosen.sentence} Working in {directory}")
            chosen.make(resolved, run, **({"jobs": jobs} if chosen.side_by_side else {}))
    found = verdict(chosen, directory)
    emit({**found, "report": write_report(directory)}, json=json, people=_print)
    if found["verdict"] != "holds":
        raise Finding(f"The verdict on {claim} is '{found['verdict']}'.")


def _print(found: Any, console: Console) -> None:
    console.print(found["sentence"], soft_wrap=True)
    if found["missing"]:
        console.print(f"Not there yet: {', '.join(found['missing'])}.", soft_wrap=True)
    console.print(f"report: {found['report']}", soft_wrap=True)


def _print_list(facts: Mapping[str, Any], console: Console) -> None:
    table = Table("claim", "what the paper says", "here", box=None, header_style="bold", padding=(0, 2, 0, 0), pad_edge=False)
    for each in facts["claims"]:
        missing = f"; {len(each['missing'])} cells missing" if each["missing"] else ""
        table.add_row(each["name"], each["says"], f"{each['verdict']}{missing}{'; ' + each['problem'] if 'problem' in each else ''}")
    console.print(table)
    console.print("\n`amaru reproduce NAME` tries one, cell by cell; the same command goes on where it stopped.", soft_wrap=True)
    if "page" in facts:
        console.print(f"page: {facts['page']}", soft_wrap=True)
