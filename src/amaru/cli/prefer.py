"""`amaru prefer`: a model learns which answers are better, from comparisons."""

import shlex
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from amaru.cli.output import JsonFlag, LiveLine, emit


class Method(StrEnum):
    dpo = "dpo"
    ipo = "ipo"
    rpo = "rpo"


class By(StrEnum):
    cached = "cached"
    live = "live"
    adapter = "adapter"


class Kind(StrEnum):
    lora = "lora"
    tied_lora = "tied-lora"


def command(
    checkpoint: Annotated[str, typer.Argument(help="The checkpoint that is trained; its tokenizer is used.")],
    data: Annotated[list[str] | None, typer.Option(help="Comparisons: .jsonl, .json or .parquet files, directories, globs.")] = None,
    held_out: Annotated[list[str] | None, typer.Option(help="Others, only to measure with; the default is a share of the prompts.")] = None,
    method: Annotated[Method | None, typer.Option(help="The loss: rpo learns how far apart rewards are, dpo and ipo their order.")] = None,
    beta: Annotated[float | None, typer.Option(help="Reward of a nat of log-ratio; smaller: further from the reference.")] = None,
    eta: Annotated[float | None, typer.Option(help="rpo: what rewards are multiplied by.")] = None,
    distance: Annotated[str | None, typer.Option(help="rpo: backward_kl, forward_kl or squared.")] = None,
    sft_weight: Annotated[
        float | None, typer.Option(help="Weight of -log p(best answer), summed over its tokens (Nemotron-4: 1e-5 to 1e-3).")
    ] = None,
    by_length: Annotated[bool | None, typer.Option("--by-length", help="Mean log-probabilities of answers instead of sums.")] = None,
    reward: Annotated[
        str | None, typer.Option(help="What the reward is: an attribute, a sum such as helpfulness=0.65,verbosity=-0.4, or helpsteer2.")
    ] = None,
    scores: Annotated[list[str] | None, typer.Option(help="Files of comparisons from which rewards are taken.")] = None,
    trained_on: Annotated[list[str] | None, typer.Option(help="Conversations of the fine-tuning, for shared prompts to be told.")] = None,
    reference: Annotated[str | None, typer.Option(help="A checkpoint to be held to; the default is the one that is trained.")] = None,
    reference_by: Annotated[
        By | None, typer.Option(help="Its log-probabilities kept on disk, it running along, or the adapter switched off.")
    ] = None,
    adapter: Annotated[Kind | None, typer.Option(help="Train an adapter; the default is every weight.")] = None,
    rank: Annotated[int | None, typer.Option(help="Of the adapter.")] = None,
    template: Annotated[
        str | None, typer.Option(help="chatml, nemotron4, plain, or a file with a jinja template; the default is the tokenizer's own.")
    ] = None,
    longest: Annotated[int | None, typer.Option(help="Tokens of a prompt with an answer.")] = None,
    too_long: Annotated[str | None, typer.Option(help="Longer ones: drop them, or cut first turns and then ends of answers.")] = None,
    epochs: Annotated[float | None, typer.Option(help="How often each comparison is seen.")] = None,
    batch: Annotated[int | None, typer.Option(help="Comparisons a step.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the data order and of what is held out.")] = None,
    recipe: Annotated[Path | None, typer.Option(help="A YAML recipe to begin with; flags win over it.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="Any other setting, e.g. terms.smoothing=0.1.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory; the default is named after the settings.")] = None,
    device: Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1.")] = "cpu",
    merge: Annotated[bool, typer.Option("--merge", help="Also write the model with the adapter in its weights.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be learned from, what is dropped, and the optimum.")] = False,
    json: JsonFlag = False,
) -> None:
    """Train a model on comparisons of answers (DPO, IPO, RPO). The same command continues an interrupted run."""
    from amaru.cli.settings import build_recipe, print_forecast
    from amaru.errors import ConfigError
    from amaru.recipes.prefer import forecast, prefer
    from amaru.recipes.preference import PreferRecipe
    from amaru.recipes.run import Run, default_directory
    from amaru.report.runs import write_report

    given = {
        "start": checkpoint,
        "data": _files(data),
        "held_out": _files(held_out),
        "reward": _weights(reward),
        "scores": _files(scores),
        "trained_on": _files(trained_on),
        "terms.method": method and method.value,
        "terms.beta": beta,
        "terms.eta": eta,
        "terms.distance": distance,
        "terms.sft": sft_weight,
        "terms.by_length": by_length,
        "reference.model": reference,
        "reference.by": reference_by and reference_by.value,
        "template": template,
        "longest": longest,
        "too_long": too_long,
        "epochs": epochs,
        "learning.batch_rows": batch,
        "learning.lr": lr,
        "seed": seed,
    }
    resolved = build_recipe(PreferRecipe, recipe, given | _of_adapter(adapter, rank, seed), settings or [])
    if resolved.method is None and merge:
        raise ConfigError("--merge is for adapters; training every weight writes a model.")
    directory = out or default_directory("prefer", resolved)
    if dry_run:
        emit(forecast(resolved, directory), json=json, people=print_forecast)
        return
    with LiveLine() as progress, Run(directory, "prefer", resolved, progress, device) as run:
        progress.note(f"Learning preferences: {checkpoint} in {directory}")
        result = prefer(resolved, run, merge=merge)
    following = [shlex.join(["amaru", "serve", result["checkpoint"]])] if "checkpoint" in result else []
    emit({**result, "report": write_report(directory), "next": following}, json=json, people=_print_summary)


def _files(paths: list[str] | None) -> tuple[str, ...] | None:
    return tuple(paths) if paths else None


def _weights(text: str | None) -> dict[str, float] | None:
    """`_weights("helpfulness=0.65,verbosity=-0.4")`; an attribute alone counts once."""
    from amaru.errors import ConfigError
    from amaru.models.reward.attributes import PUBLISHED

    if text is None or text == "helpsteer2":
        return None if text is None else dict(PUBLISHED)
    found = {}
    for part in text.split(","):
        name, equals, weight = part.partition("=")
        try:
            found[name.strip()] = float(weight) if equals else 1.0
        except ValueError:
            raise ConfigError(f"--reward is attributes with weights such as helpfulness=0.65,verbosity=-0.4; got '{text}'.") from None
    return found


def _of_adapter(kind: Kind | None, rank: int | None, seed: int | None) -> dict[str, Any]:
    from amaru.errors import ConfigError

    if kind is None:
        if rank is not None:
            raise ConfigError("--rank belongs to an adapter; give --adapter lora or tied-lora.")
        return {}
    said = {name: value for name, value in (("rank", rank), ("seed", seed)) if value is not None}
    return {kind.value.replace("-", "_"): said}


def _print_summary(result: Mapping[str, Any], console: Console) -> None:
    for name in ("checkpoint", "adapter"):
        if name in result:
            console.print(f"{name:<12}{result[name]}")
    grid = Table.grid(padding=(0, 2))
    shown = ("accuracy", "margin", "chosen", "rejected", "kl", "longer")
    grid.add_row("", "loss", *shown)
    for when in ("before", "after"):
        found = result[when]
        grid.add_row(when, f"{found['loss']:.4f}", f"{found['accuracy']:.1%}", *(f"{found[name]:.3f}" for name in shown[1:]))
    console.print(f"\n{result['held_out']:,} held-out comparisons; {result['implied']}\n")
    console.print(grid)
    if result["warning"]:
        console.print(f"\n{result['warning']}")
    console.print(f"\nreport      {result['report']}")
    for line in result["next"]:
        console.print(f"\nNext:\n  {line}")
