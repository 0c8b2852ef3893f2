"""`amaru sft`: a model learns to answer, from conversations."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from amaru.cli.output import JsonFlag, LiveLine, emit


def command(
    checkpoint: Annotated[str, typer.Argument(help="The checkpoint that is trained; its tokenizer is used.")],
    data: Annotated[list[str] | None, typer.Option(help="Conversations: .jsonl or .parquet files, directories, globs.")] = None,
    then: Annotated[list[str] | None, typer.Option(help="Conversations of a second stage.")] = None,
    replay: Annotated[str | None, typer.Option(help="Share of the first stage that the second sees again.")] = None,
    epochs: Annotated[float | None, typer.Option(help="How often each conversation is seen, in every stage.")] = None,
    template: Annotated[
        str | None, typer.Option(help="chatml, nemotron4, plain, or a file with a jinja template; the default is the tokenizer's own.")
    ] = None,
    add_special_tokens: Annotated[
        bool | None, typer.Option("--add-special-tokens", help="Give the model rows for control tokens that it lacks.")
    ] = None,
    row_length: Annotated[int | None, typer.Option(help="Tokens a row; no conversation is cut across rows.")] = None,
    too_long: Annotated[str | None, typer.Option(help="A conversation longer than a row: drop it, or cut its last turns.")] = None,
    only_last: Annotated[bool | None, typer.Option("--only-last", help="Learn the last answer of each conversation only.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the data order and of what validates.")] = None,
    recipe: Annotated[Path | None, typer.Option(help="A YAML recipe to begin with; flags win over it.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="Any other setting, e.g. learning.batch_rows=4.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory; the default is named after the settings.")] = None,
    device: Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1.")] = "cpu",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and what would be learned.")] = False,
    json: JsonFlag = False,
) -> None:
    """Fine-tune a model on conversations; only the assistant's tokens are learned. The same command continues an interrupted run."""
    from amaru.cli.settings import build_recipe, print_forecast
    from amaru.recipes.run import Run, default_directory
    from amaru.recipes.sft import SFTRecipe, fine_tune, forecast
    from amaru.report.runs import write_report

    given = {
        "start": checkpoint,
        "stages": _stages(data or [], then or [], replay, epochs),
        "template": template,
        "add_special_tokens": add_special_tokens,
        "row_length": row_length,
        "too_long": too_long,
        "only_last": only_last,
        "learning.lr": lr,
        "seed": seed,
    }
    resolved = build_recipe(SFTRecipe, recipe, given, settings or [])
    directory = out or default_directory("sft", resolved)
    if dry_run:
        emit(forecast(resolved, directory), json=json, people=print_forecast)
        return
    with LiveLine() as progress, Run(directory, "sft", resolved, progress, device) as run:
        progress.note(f"Fine-tuning {checkpoint} in {directory}")
        result = fine_tune(resolved, run)
    following = [shlex.join(["amaru", "serve", result["checkpoint"]])]
    emit({**result, "report": write_report(directory), "next": following}, json=json, people=_print_summary)


def _stages(data: list[str], then: list[str], replay: str | None, epochs: float | None) -> list[dict[str, Any]] | None:
    """The stages that the flags describe; None when they describe none, and the recipe file does."""
    from amaru.config.units import parse_share
    from amaru.errors import ConfigError

    if not data:
        if then or replay or epochs:
            raise ConfigError("--then, --replay and --epochs describe stages together with --data; a recipe file has them in its stages.")
        return None
    if replay is not None and not then:
        raise ConfigError("--replay is for a second stage; give its conversations with --then.")
    share = None if replay is None else parse_share(replay, 1e6)
    if replay is not None and share is None:
        raise ConfigError(f"--replay is a share such as 2%; got '{replay}'.")
    length = {} if epochs is None else {"epochs": epochs}
    stages: list[dict[str, Any]] = [{"data": data, **length}]
    return [*stages, {"data": then, "replay": (share or 0) / 1e6, **length}] if then else stages


def _print_summary(result: Mapping[str, Any], console: Console) -> None:
    console.print(f"checkpoint  {result['checkpoint']}\n")
    sets = list(next(iter(result["rows"].values())))
    grid = Table.grid(padding=(0, 2))
    grid.add_row("", *(f"loss, {name}" for name in sets), *(f"accuracy, {name}" for name in sets))
    for model, found in result["rows"].items():
        grid.add_row(model, *(f"{found[name]['loss']:.4f}" for name in sets), *(f"{found[name]['accuracy']:.1%}" for name in sets))
    console.print(grid)
    console.print(f"\nreport      {result['report']}\n\nNext:")
    for line in result["next"]:
        console.print(f"  {line}")
