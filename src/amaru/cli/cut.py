"""`amaru cut`: a smaller model of a larger one, by its scores or by a plan."""

import resource
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from amaru.cli import show_plan
from amaru.cli.output import JsonFlag, emit
from amaru.errors import ConfigError
from amaru.report.numbers import duration, size


def command(
    checkpoint: Annotated[str, typer.Argument(help="The parent: a checkpoint directory.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The directory to write; a checkpoint there is replaced.")],
    scores: Annotated[Path | None, typer.Option(help="What `amaru score` wrote: it tells which indices stay.")] = None,
    width: Annotated[
        list[str] | None,
        typer.Option(help="AXIS=SIZE in all layers, e.g. hidden=3072, ffn=12288, head=14 (per group); LAYER:AXIS=SIZE in one."),
    ] = None,
    layers: Annotated[list[str] | None, typer.Option(help="KIND=COUNT: so many layers of a kind stay, the most important.")] = None,
    drop: Annotated[list[int] | None, typer.Option(help="A layer that goes, by its index.")] = None,
    channels_per_head: Annotated[
        bool, typer.Option("--channels-per-head", help="Each Mamba head keeps channels of its own, not all the same.")
    ] = False,
    heads_ignoring_groups: Annotated[
        bool,
        typer.Option("--heads-ignoring-groups", help="An experiment that breaks the model: heads are chosen as if B and C had no groups."),
    ] = False,
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
    from amaru.compress.ranking import Ranking
    from amaru.data.tokenizer import Tokenizer
    from amaru.models.checkpoint import fingerprint
    from amaru.recipes.cut import plan_by_scores

    if (scores is None) == (plan is None):
        raise ConfigError("A cut needs --scores and sizes (--width, --layers, --drop), or a --plan.")
    if plan is not None and (width or layers or drop or channels_per_head or heads_ignoring_groups):
        raise ConfigError("A plan has its sizes and indices; leave out all that says which, or give --scores instead.")
    if plan is not None:
        made = Plan.load(plan, {"checkpoint": fingerprint(checkpoint)})
    else:
        assert scores is not None
        ranking = Ranking(channels_per_head=channels_per_head, heads_ignoring_groups=heads_ignoring_groups)
        widths, at = _widths(width)
        made = plan_by_scores(checkpoint, scores, widths, _sizes("--layers", layers), tuple(drop or ()), at=at, ranking=ranking)
    if save_plan is not None:
        made.save(save_plan)
    facts: dict[str, Any] = {"out": out, **made.facts()}
    if not dry_run:
        tokenizer = Tokenizer.load(checkpoint) if (Path(checkpoint) / "tokenizer.json").exists() else None
        start = time.perf_counter()
        made.cut_checkpoint(checkpoint, out, tokenizer)
        facts |= {"seconds": time.perf_counter() - start, "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    emit(facts, json=json, people=_print)


def _widths(given: list[str] | None) -> tuple[dict[str, int], dict[int, dict[str, int]]]:
    """`_widths(["ffn=512", "3:ffn=256"]) == ({"ffn": 512}, {3: {"ffn": 256}})`"""
    widths, at = dict[str, int](), dict[int, dict[str, int]]()
    for name, asked in _sizes("--width", given).items():
        layer, colon, axis = name.rpartition(":")
        if not colon:
            widths[axis] = asked
        elif layer.isdigit():
            at.setdefault(int(layer), {})[axis] = asked
        else:
            raise ConfigError(f"--width is AXIS=SIZE or LAYER:AXIS=SIZE, such as 3:ffn=512; got '{name}={asked}'.")
    return widths, at


def _sizes(flag: str, given: list[str] | None) -> dict[str, int]:
    """`_sizes("--width", ["ffn=512"]) == {"ffn": 512}`"""
    pairs = [text.partition("=") for text in given or []]
    if wrong := [name + equals + value for name, equals, value in pairs if not (name and value.isdigit())]:
        raise ConfigError(f"{flag} is NAME=NUMBER, such as ffn=512; got '{wrong[0]}'.")
    return {name: int(value) for name, _, value in pairs}


def _print(facts: Mapping[str, Any], console: Console) -> None:
    show_plan.show(facts, console)
    if "seconds" in facts:
        took = f"{duration(facts['seconds'])}; at most {size(facts['peak_bytes'])} resident"
        console.print(f"\n{facts['out']} written in {took}", soft_wrap=True)
