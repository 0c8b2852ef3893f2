"""`amaru cut`: a smaller model of a larger one, by its scores or by a plan."""

import resource
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from amaru.cli.artifacts import print_plan
from amaru.cli.output import JsonFlag, emit
from amaru.errors import ConfigError
from amaru.report.numbers import duration, size


def command(
    checkpoint: Annotated[str, typer.Argument(help="The parent: a checkpoint directory.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The directory to write; a checkpoint there is replaced.")],
    scores: Annotated[Path | None, typer.Option(help="What `amaru score` wrote: it tells which indices stay.")] = None,
    width: Annotated[
        list[str] | None, typer.Option(help="AXIS=SIZE in all layers, e.g. hidden=3072, ffn=12288, head=14 (per group).")
    ] = None,
    layers: Annotated[list[str] | None, typer.Option(help="KIND=COUNT: so many layers of a kind stay, the most important.")] = None,
    drop: Annotated[list[int] | None, typer.Option(help="A layer that goes, by its index.")] = None,
    plan: Annotated[Path | None, typer.Option(help="A plan to carry out, in place of scores and sizes.")] = None,
    save_plan: Annotated[Path | None, typer.Option(help="Where to keep the plan, which cuts the same again.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be cut, and write nothing.")] = False,
    json: JsonFlag = False,
) -> None:
    """Cut a model to a shape: tensor by tensor from disk to disk, in the memory of the largest.

    `amaru show MODEL --axes LAYER` lists the axes. What stays is chosen by importance inside what the axes allow (heads within their
    group); the result is checked against the shape that was asked for, tensor by tensor.
    """
    from amaru.compress.plan import Plan
    from amaru.data.tokenizer import Tokenizer
    from amaru.models.checkpoint import fingerprint
    from amaru.recipes.cut import plan_by_scores

    if (scores is None) == (plan is None):
        raise ConfigError("A cut needs --scores and sizes (--width, --layers, --drop), or a --plan.")
    if plan is not None and (width or layers or drop):
        raise ConfigError("A plan has its sizes; leave out --width, --layers and --drop, or give --scores instead.")
    if plan is not None:
        made = Plan.load(plan, {"checkpoint": fingerprint(checkpoint)})
    else:
        assert scores is not None
        made = plan_by_scores(checkpoint, scores, _sizes("--width", width), _sizes("--layers", layers), tuple(drop or ()))
    if save_plan is not None:
        made.save(save_plan)
    facts: dict[str, Any] = {"out": out, **made.facts()}
    if not dry_run:
        tokenizer = Tokenizer.load(checkpoint) if (Path(checkpoint) / "tokenizer.json").exists() else None
        start = time.perf_counter()
        made.cut_checkpoint(checkpoint, out, tokenizer)
        facts |= {"seconds": time.perf_counter() - start, "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    emit(facts, json=json, people=_print)


def _sizes(flag: str, given: list[str] | None) -> dict[str, int]:
    """`_sizes("--width", ["ffn=512"]) == {"ffn": 512}`"""
    pairs = [text.partition("=") for text in given or []]
    if wrong := [name + equals + value for name, equals, value in pairs if not (name and value.isdigit())]:
        raise ConfigError(f"{flag} is NAME=NUMBER, such as ffn=512; got '{wrong[0]}'.")
    return {name: int(value) for name, _, value in pairs}


def _print(facts: Mapping[str, Any], console: Console) -> None:
    print_plan(facts, console)
    if "seconds" in facts:
        took = f"{duration(facts['seconds'])}; at most {size(facts['peak_bytes'])} resident"
        console.print(f"\n{facts['out']} written in {took}", soft_wrap=True)
