"""`amaru score`: what matters in a model, on text, whatever its size."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from amaru.cli.output import JsonFlag, LiveLine, emit
from amaru.report.numbers import count, duration, size


def command(
    checkpoint: Annotated[str, typer.Argument(help="A checkpoint directory with a tokenizer.")],
    data: Annotated[list[str] | None, typer.Option(help="Text: files, directories or globs; @python is Python's own source.")] = None,
    samples: Annotated[int | None, typer.Option(help="Rows of text on which widths are scored.")] = None,
    row_length: Annotated[int | None, typer.Option(help="Tokens of each.")] = None,
    layer_samples: Annotated[int | None, typer.Option(help="Rows on which layers are left out one by one; 0: none.")] = None,
    layer_tokens: Annotated[int | None, typer.Option(help="Only so many tokens of each of these.")] = None,
    fluctuation: Annotated[list[str] | None, typer.Option(help="A kind of layer that is scored as FLAP does, such as mlp.")] = None,
    recipe: Annotated[Path | None, typer.Option(help="A YAML recipe to begin with; flags win over it.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="Any other setting, e.g. layers_iteratively=true.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory; the default is named after the settings.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the settings, and stop.")] = False,
    json: JsonFlag = False,
) -> None:
    """Score every width and every layer of a model, forward only: how loud it is on text, and how far the output moves without it.

    Weights are read layer by layer, so the model may be larger than memory. The same command continues an interrupted run. The result is
    scores.safetensors in the run directory: `amaru show` shows it, `amaru cut` cuts by it, to any shape, without running the model again.
    """
    from amaru.cli.settings import build_recipe, print_forecast
    from amaru.config import to_dict
    from amaru.recipes.run import Run, default_directory
    from amaru.recipes.score import COSTS, FILE, ScoreRecipe, importance

    given = {
        "checkpoint": checkpoint,
        "text.data": tuple(data) if data else None,
        "text.row_length": row_length or (None if recipe else 2048),
        "samples": samples,
        "layer_samples": layer_samples,
        "layer_tokens": layer_tokens,
        "fluctuation": tuple(fluctuation) if fluctuation else None,
    }
    resolved = build_recipe(ScoreRecipe, recipe, given, settings or [])
    directory = out or default_directory("score", resolved)
    if dry_run:
        emit({"out": str(directory), "recipe": to_dict(resolved)}, json=json, people=print_forecast)
        return
    with LiveLine() as progress, Run(directory, "score", resolved, progress) as run:
        progress.note(f"Scoring in {directory}")
        importance(resolved, run)
    emit({"scores": directory / FILE, "costs": _costs(directory / COSTS)}, json=json, people=_print)


def _costs(path: Path) -> dict[str, Any]:
    from amaru.config.records import read_record

    return read_record(path) if path.exists() else {}


def _print(facts: Mapping[str, Any], console: Console) -> None:
    console.print()
    for stage, took in facts["costs"].items():
        rate = f", {count(took['flops'] / took['seconds'] / 1e9)} GFLOP/s" if took["whole"] else " (the rest of it, after a stop)"
        times = f"{duration(took['seconds'])} on {took['threads']} threads ({duration(took['cpu_seconds'])} of processor time)"
        console.print(f"{stage}: {took['flops'] / 1e12:,.2f} TFLOP in {times}{rate}; at most {size(took['peak_bytes'])} resident")
    console.print(f"scores  {facts['scores']}", soft_wrap=True)
    console.print(f"\nNext:\n  amaru show {facts['scores']}", soft_wrap=True)
