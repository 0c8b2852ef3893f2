"""`amaru distill`: a student learns its teacher's next-token distributions."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from amaru.cli.output import JsonFlag, LiveLine, emit


def command(
    teacher: Annotated[str, typer.Option(help="The checkpoint to learn from.")],
    student: Annotated[str, typer.Option(help="The checkpoint that learns; it is not changed, a new one is written.")],
    data: Annotated[list[str] | None, typer.Option(help="Text: files, directories or globs; @python is Python's own source.")] = None,
    tokens: Annotated[str | None, typer.Option(help="Tokens to train on, such as 2M.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    recipe: Annotated[Path | None, typer.Option(help="A YAML recipe to begin with; flags win over it.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the data order.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="Any other setting, e.g. learning.batch_rows=4.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory; the default is named after the settings.")] = None,
    json: JsonFlag = False,
) -> None:
    """Distil with forward KL on logits. The same command continues an interrupted run."""
    from amaru.cli.settings import build_recipe, count
    from amaru.recipes.distill import DistillRecipe, distill
    from amaru.recipes.run import Run, default_directory

    given = {
        "teacher": teacher,
        "student": student,
        "text.data": tuple(data) if data else None,
        "learning.tokens": count("--tokens", tokens),
        "learning.lr": lr,
        "seed": seed,
    }
    resolved = build_recipe(DistillRecipe, recipe, given, settings or [])
    directory = out or default_directory("distill", resolved)
    with LiveLine() as progress, Run(directory, "distill", resolved, progress) as run:
        progress.note(f"Distilling in {directory}")
        found = distill(resolved, run)
    from amaru.report.runs import write_report

    emit({**found, "report": write_report(directory)}, json=json, people=_print)


def _print(facts: Mapping[str, Any], console: Console) -> None:
    for name, row in facts["rows"].items():
        console.print(
            f"{name:<8} loss {row['loss']:.4f}  KL to the teacher {row['teacher_kl']:.4f}  same choice {row['teacher_agreement']:.1%}"
        )
    console.print(f"\ncheckpoint  {facts['checkpoint']}\nreport      {facts['report']}")
