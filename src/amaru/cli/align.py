"""`amaru align`: fine-tuning, then rounds of preferences, from one recipe."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from amaru.cli.output import JsonFlag, LiveLine, emit
from amaru.report.numbers import percent


def command(
    recipe: Annotated[Path, typer.Argument(help="A YAML recipe: start, sft stages, rounds, held_out prompts.")],
    settings: Annotated[list[str] | None, typer.Option("--set", help="Any setting of it, e.g. seed=1 or overlap=drop.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory; the default is named after the settings.")] = None,
    device: Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1.")] = "cpu",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read and check the data, print every stage, and stop.")] = False,
    json: JsonFlag = False,
) -> None:
    """Align a model: code SFT, general SFT with replay, DPO, rounds of RPO; each round draws answers of the model as it is, judges and
    compares them, lets good ones through a gate, learns, and is measured on held-out prompts.

    The same command continues an interrupted run. What it takes at full size: amaru plan align nemotron-4-340b --devices 768xH100-80GB
    """
    from amaru.cli.settings import build_recipe, print_forecast
    from amaru.recipes.align import align
    from amaru.recipes.alignment.outlook import outlook
    from amaru.recipes.alignment.settings import AlignRecipe
    from amaru.recipes.run import Run, default_directory
    from amaru.report.runs import write_report

    resolved = build_recipe(AlignRecipe, recipe, {}, settings or [])
    directory = out or default_directory("align", resolved)
    if dry_run:
        emit(outlook(resolved, directory), json=json, people=print_forecast)
        return
    with LiveLine() as progress, Run(directory, "align", resolved, progress, device) as run:
        progress.note(f"Aligning {resolved.start} in {directory}")
        result = align(resolved, run)
    following = [shlex.join(["amaru", "serve", result["checkpoint"]])]
    emit({**result, "report": write_report(directory), "next": following}, json=json, people=_print)


def _print(result: Mapping[str, Any], console: Console) -> None:
    if result["rows"]:
        table = Table("held-out prompts", box=None, header_style="bold", padding=(0, 2, 0, 0), pad_edge=False)
        for name in ("passed", "95 % interval", "loosely", "single checks", "tokens"):
            table.add_column(name, justify="right")
        for name, row in result["rows"].items():
            interval = f"{percent(row['low'])} to {percent(row['high'])}"
            table.add_row(
                name, percent(row["strict"]), interval, percent(row["loose"]), percent(row["checks"]), f"{row['tokens']:.0f}"
            )
        console.print(table)
        console.print()
    for name in ("checkpoint", "report"):
        console.print(f"{name:<10} {result[name]}", soft_wrap=True)
    console.print("\nNext:")
    for line in result["next"]:
        console.print(f"  {line}", soft_wrap=True)
