"""`amaru demo`: the whole path on one small model."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from amaru.cli.output import Finding, JsonFlag, LiveLine, emit
from amaru.report.numbers import count, percent, size


def command(
    settings: Annotated[list[str] | None, typer.Option("--set", help="Any setting, e.g. parent.tokens=300000 or memory=50%.")] = None,
    out: Annotated[Path, typer.Option(help="Run directory; the same one continues an interrupted demo.")] = Path("runs/demo"),
    json: JsonFlag = False,
) -> None:
    """Train a small hybrid on Python's own source, compress it, distil it, and compare it with a twin trained from scratch.

    Takes less than ten minutes on two cores and downloads nothing: a slower machine sees fewer tokens, and says so (with --set
    nothing is scaled). Exit 1 when the student does not beat its twin.
    """
    from amaru.cli.settings import build_recipe
    from amaru.recipes.demo import DemoRecipe, demo, fitting_recipe
    from amaru.recipes.run import Run

    with LiveLine() as progress:
        recipe = build_recipe(DemoRecipe, None, {}, settings) if settings else fitting_recipe(out, progress)
        with Run(out, "demo", recipe, progress) as run:
            found = demo(recipe, run)
    from amaru.report.runs import write_report

    report = write_report(out)
    emit({**found, "report": report}, json=json, people=_print)
    if not found["verdict"]["holds"]:
        raise Finding(found["verdict"]["sentence"])


def _print(found: Any, console: Console) -> None:
    console.print()
    console.print(comparison(found["rows"]))
    console.print(f"\n{found['verdict']['sentence']}\n", soft_wrap=True)
    for prompt, texts in found["samples"].items():
        for name, text in texts.items():
            console.print(f"{name} continues {prompt!r}:", style="bold")
            console.print(text.rstrip() + "\n", soft_wrap=True)
    console.print(f"Everything is in {found['report'].parent}; open {found['report']} to see it.\n")
    console.print("Next:")
    for line in found["next"]:
        console.print(f"  {line}", soft_wrap=True)


def comparison(rows: Any) -> Table:
    """One row a model."""
    table = Table(
        "", "loss", "accuracy", "parameters", "memory", "prefill tok/s", "decode tok/s", box=None, padding=(0, 2, 0, 0), header_style="bold"
    )
    for column in table.columns[1:]:
        column.justify = "right"
    for name, row in rows.items():
        cells = (f"{row['loss']:.3f}", percent(row["accuracy"]), count(row["parameters"]), size(row["memory"]))
        table.add_row(name, *cells, f"{row['prefill']:,.0f}", f"{row['decode']:,.0f}")
    return table
