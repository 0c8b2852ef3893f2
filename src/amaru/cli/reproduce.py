"""`amaru reproduce`: a claim of a paper, tried here."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from amaru.cli.output import Finding, JsonFlag, LiveLine, emit


def command(
    claim: Annotated[str, typer.Argument(help="Which claim: compression, fp8, tied-lora.")],
    recipe: Annotated[Path | None, typer.Option(help="A YAML recipe to begin with; --set wins over it.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="Any setting, e.g. small.seeds=[0,1] or fp8.counted=layers.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory; the same one continues after the last finished cell.")] = None,
    jobs: Annotated[int, typer.Option(help="So many cells at a time, each with its share of the threads.", min=1)] = 1,
    judge: Annotated[bool, typer.Option("--judge", help="Run nothing; judge the records that are in --out.")] = False,
    json: JsonFlag = False,
) -> None:
    """Try a claim of a paper on this machine: controlled runs, cell by cell, and a verdict from their records.

    Exit 1 when the verdict is not that the claim holds.
    """
    from amaru.cli.settings import build_recipe
    from amaru.errors import ConfigError
    from amaru.recipes.reproduce.claims import claim_named, verdict
    from amaru.recipes.run import Run
    from amaru.report.runs import write_report

    chosen, directory = claim_named(claim), out or Path("runs") / f"reproduce-{claim}"
    if not judge:
        if jobs > 1 and not chosen.side_by_side:
            raise ConfigError(f"The cells of {claim} are made one after the other; leave --jobs out.")
        resolved = build_recipe(chosen.recipe, recipe, {}, settings or [])
        with LiveLine() as progress, Run(directory, f"reproduce-{claim}", resolved, progress) as run:
            progress.note(f"{chosen.sentence} Working in {directory}")
            chosen.make(resolved, run, **({"jobs": jobs} if chosen.side_by_side else {}))
    found = verdict(chosen, directory)
    emit({**found, "report": write_report(directory)}, json=json, people=_print)
    if found["verdict"] != "holds":
        raise Finding(found["sentence"])


def _print(found: Any, console: Console) -> None:
    console.print(found["sentence"], soft_wrap=True)
    if found["missing"]:
        console.print(f"Not there yet: {', '.join(found['missing'])}.", soft_wrap=True)
    console.print(f"report: {found['report']}", soft_wrap=True)
