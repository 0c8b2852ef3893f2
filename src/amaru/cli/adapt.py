"""`amaru adapt`: a few numbers learn, and the model stays as it is."""

import shlex
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from amaru.cli.output import JsonFlag, LiveLine, emit


class Kind(StrEnum):
    lora = "lora"
    tied_lora = "tied-lora"
    vera = "vera"
    full = "full"


def command(
    checkpoint: Annotated[str, typer.Argument(help="The checkpoint, which is not changed; its tokenizer is used.")],
    data: Annotated[list[str] | None, typer.Option(help="Conversations, or prompts and completions: .jsonl, .parquet, globs.")] = None,
    held_out: Annotated[list[str] | None, typer.Option(help="Others that are only scored; the default is a share of the data.")] = None,
    method: Annotated[Kind | None, typer.Option(help="What is trained; full: every weight, to compare.")] = None,
    rank: Annotated[int | None, typer.Option(help="Of the change of each weight.")] = None,
    alpha: Annotated[float | None, typer.Option(help="The change is scaled by alpha / rank.")] = None,
    targets: Annotated[
        str | None, typer.Option(help="Which linear layers, with commas: all, mamba, attention.q_proj, in_proj.x, head.")
    ] = None,
    layers: Annotated[str | None, typer.Option(help="Only these layers, such as 0,2,5-9.")] = None,
    template: Annotated[
        str | None, typer.Option(help="chatml, nemotron4, plain, or a file with a jinja template; the default is the tokenizer's own.")
    ] = None,
    epochs: Annotated[float | None, typer.Option(help="How often each conversation is seen.")] = None,
    row_length: Annotated[int | None, typer.Option(help="Tokens a row; no conversation is cut across rows.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the first factors, the data order and of what is held out.")] = None,
    recipe: Annotated[Path | None, typer.Option(help="A YAML recipe to begin with; flags win over it.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="Any other setting, e.g. lora.dora=true.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory; the default is named after the settings.")] = None,
    device: Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1.")] = "cpu",
    merge: Annotated[bool, typer.Option("--merge", help="Also write the model with the adapter in its weights.")] = False,
    peft: Annotated[bool, typer.Option("--peft", help="Also write the adapter as peft reads it.")] = False,
    measure: Annotated[bool, typer.Option("--measure", help="Also compare memory and speed with full fine-tuning.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be reached, done and learned.")] = False,
    json: JsonFlag = False,
) -> None:
    """Train an adapter on conversations, or on prompts and completions. It says what it reaches before it begins.

    The same command continues an interrupted run.
    """
    from amaru.cli.settings import build_recipe, print_forecast
    from amaru.errors import ConfigError
    from amaru.recipes.adapt import AdaptRecipe, adapt_model, forecast, in_peft_format, merged
    from amaru.recipes.run import Run, default_directory
    from amaru.report.runs import write_report

    given = {
        "start": checkpoint,
        "data": tuple(data) if data else None,
        "held_out": tuple(held_out) if held_out else None,
        "template": template,
        "epochs": epochs,
        "row_length": row_length,
        "learning.lr": lr,
        "seed": seed,
    }
    chosen = {"rank": rank, "alpha": alpha, "targets": targets and targets.split(","), "layers": _layers(layers), "seed": seed}
    resolved = build_recipe(AdaptRecipe, recipe, given | _of_method(method, recipe, settings or [], chosen), settings or [])
    if resolved.method is None and (merge or peft):
        raise ConfigError("--merge and --peft are for adapters; full fine-tuning writes a model.")
    directory = out or default_directory("adapt", resolved)
    if dry_run:
        emit(forecast(resolved, directory), json=json, people=print_forecast)
        return
    with LiveLine() as progress, Run(directory, "adapt", resolved, progress, device) as run:
        progress.note(f"Adapting {checkpoint} in {directory}")
        result = adapt_model(resolved, run, measure=measure)
        more = (merged(resolved, run) if merge else {}) | (in_peft_format(resolved, run) if peft else {})
    emit({**result, **more, "report": write_report(directory), "next": _next(result, more)}, json=json, people=_print_summary)


def _of_method(method: Kind | None, recipe: Path | None, settings: list[str], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the method that the flags mean: that of --method, else of the recipe file or of --set, else LoRA."""
    from amaru.errors import ConfigError

    said = {name: value for name, value in chosen.items() if value is not None}
    if method is Kind.full:
        if wrong := [name for name in said if name != "seed"]:
            raise ConfigError(f"--{wrong[0]} belongs to an adapter; leave it out with --method full.")
        return {}
    if method is None and (recipe or any(setting.startswith("tied_lora.") for setting in settings)):
        if wrong := [name for name in said if name != "seed"]:
            raise ConfigError(f"--{wrong[0]} needs --method; or set it in the recipe, as lora.{wrong[0]} or tied_lora.{wrong[0]}.")
        return {}
    if method in (Kind.lora, None):
        return {"lora": said}
    return {"tied_lora": said | ({"trained": ("u", "v")} if method is Kind.vera else {})}


def _layers(text: str | None) -> tuple[int, ...] | None:
    """`_layers("0,2,5-7") == (0, 2, 5, 6, 7)`"""
    from amaru.errors import ConfigError

    if text is None:
        return None
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise ConfigError(f"--layers is numbers and ranges such as 0,2,5-9; got '{text}'.")
        found += range(int(first), int(last or first) + 1)
    return tuple(found)


def _next(result: Mapping[str, Any], more: Mapping[str, Any]) -> list[str]:
    model = more.get("merged") or (result["result"] if result["method"] == "full fine-tuning" else None)
    return [shlex.join(["amaru", "serve", model])] if model else []


def _print_summary(result: Mapping[str, Any], console: Console) -> None:
    from amaru.report.numbers import size

    console.print(f"{result['method']}: {result['result']}\n")
    grid = Table.grid(padding=(0, 2))
    grid.add_row("", "loss", "token accuracy", "answers word for word")
    for name in ("before", "after"):
        found = result[name]
        grid.add_row(name, f"{found['loss']:.4f}", f"{found['accuracy']:.1%}", f"{found['exact']:.1%} of {found['count']:,}")
    console.print(grid)
    for name, cost in result.get("cost", {}).items():
        console.print(f"{name}: {size(cost['bytes'])} beside the model, {cost['tokens_per_second']:,.0f} tokens/s")
    for name in ("merged", "peft", "report"):
        if name in result:
            console.print(f"{name:<8}{result[name]}")
    for line in result["next"]:
        console.print(f"\nNext:\n  {line}")
