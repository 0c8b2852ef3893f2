"""`amaru train`: text in, checkpoint out."""

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from amaru.cli.output import JsonFlag, LiveLine, emit


def command(
    data: Annotated[list[str] | None, typer.Option(help="Files, directories or globs; @python is Python's own source.")] = None,
    recipe: Annotated[Path | None, typer.Option(help="A YAML recipe to begin with; flags win over it.")] = None,
    start: Annotated[str | None, typer.Option("--from", help="Go on from this checkpoint instead of a new model.")] = None,
    pattern: Annotated[str | None, typer.Option(help="The stack: M Mamba-2, * attention, - MLP.")] = None,
    hidden: Annotated[int | None, typer.Option(help="Width of the residual stream.")] = None,
    tokens: Annotated[str | None, typer.Option(help="Tokens to train on, such as 2M or 300k.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of weights and data order.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="Any other setting, e.g. text.vocab=8192, shape.ffn=1024.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory; the default is named after the settings.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and what it needs.")] = False,
    json: JsonFlag = False,
) -> None:
    """Train a hybrid model on your text. The same command continues an interrupted run."""
    from amaru.cli.settings import build_recipe, count, print_forecast
    from amaru.recipes.run import Run, default_directory
    from amaru.recipes.train import TrainRecipe, forecast, train_model
    from amaru.report.runs import write_report

    given = {
        "text.data": tuple(data) if data else None,
        "start": start,
        "shape.pattern": pattern,
        "shape.hidden": hidden,
        "learning.tokens": count("--tokens", tokens),
        "learning.lr": lr,
        "seed": seed,
    }
    resolved = build_recipe(TrainRecipe, recipe, given, settings or [])
    directory = out or default_directory("train", resolved)
    if dry_run:
        emit(forecast(resolved, directory), json=json, people=print_forecast)
        return
    with LiveLine() as progress, Run(directory, "train", resolved, progress) as run:
        progress.note(f"Training in {directory}")
        trained = train_model(resolved, run)
    following = [
        shlex.join(["amaru", "generate", str(trained.checkpoint), "--prompt", "The "]),
        shlex.join(["amaru", "compress", str(trained.checkpoint), *(word for name in resolved.text.data for word in ("--data", name))])
        + " --memory 60%",
    ]
    emit({**trained.summary, "report": write_report(directory), "next": following}, json=json, people=_print_summary)


def _print_summary(result: Any, console: Console) -> None:
    console.print(
        f"checkpoint           {result['checkpoint']}  ({result['parameters'] / 1e6:.2f} M parameters, {result['tokens']:,} tokens)"
    )
    console.print(f"validation loss      {result['loss']:.4f} nats a token")
    console.print(f"next-token accuracy  {result['accuracy']:.1%}")
    if result["bits_per_byte"] is not None:
        console.print(f"bits per byte        {result['bits_per_byte']:.3f}")
    console.print(f"report               {result['report']}")
    console.print("\nNext:")
    for line in result["next"]:
        console.print(f"  {line}")
