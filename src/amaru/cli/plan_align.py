"""`amaru plan align`: what the alignment of a large model takes, stage by stage, before anybody pays for it."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from amaru.cli.output import Finding, JsonFlag, emit
from amaru.config.units import parse_bytes, parse_share
from amaru.report.numbers import count, duration, percent, size


def command(
    model: Annotated[str, typer.Argument(help="A checkpoint directory, or a preset such as nemotron-4-340b.")],
    devices: Annotated[str, typer.Option(help="What it is to run on, such as 384xH100-80GB.")],
    length: Annotated[int | None, typer.Option(help="Tokens of a prompt with its answer, on average.")] = None,
    row_length: Annotated[int | None, typer.Option(help="Tokens of a row in training, and of the longest sequence.")] = None,
    answers: Annotated[int | None, typer.Option(help="Drawn for each pair.")] = None,
    mfu: Annotated[float | None, typer.Option(help="Share of the peak that training reaches; the published one is the default.")] = None,
    reserve: Annotated[str, typer.Option(help="Of each device's memory, for the runtime: 10% or 8GB.")] = "10%",
    json: JsonFlag = False,
) -> None:
    """Tell what the stages of Nemotron-4 340B's alignment take for a model: memory of each layout, tokens, and time at the published MFU.

    Samples, epochs and batches of each stage are the report's (2406.11704); what it leaves open is assumed and printed. Training is in
    bf16 with AdamW and fp32 master weights, weights and all that belongs to them shared by all devices, layers run again in the backward
    pass; the reference is a copy in bf16 that all devices share. Time of answers is a lower bound at published peaks. Exit 1 where no
    layout fits.
    """
    from amaru.config import from_dict
    from amaru.models.devices import machine
    from amaru.models.families import config_of
    from amaru.recipes.alignment.budget import Assumed, budget

    given = {"length": length, "row_length": row_length, "answers": answers, "mfu": mfu}
    found, assumed = machine(devices), from_dict(Assumed, {name: value for name, value in given.items() if value is not None})
    kept_free = 0 if reserve in ("0", "0%") else parse_share(reserve, found.device.memory) or parse_bytes(reserve)
    facts = {"model": model, "devices": found.name, "usable": found.device.memory - kept_free}
    facts |= budget(config_of(model), found, facts["usable"], assumed)
    emit(facts, json=json, people=show)
    if missing := [what for what in ("training", "serving") if facts[what] is None]:
        raise Finding(f"{model} does not fit {devices} for {' and '.join(missing)}; more devices, or a shorter --row-length, help.")


def show(facts: Mapping[str, Any], console: Console) -> None:
    assumed = facts["assumed"]
    usable = f"{facts['devices']}, {size(facts['usable'])} of each usable"
    console.print(f"{facts['model']}, {count(facts['parameters'])} parameters; {usable}\n")
    console.print(_layouts(facts))
    console.print()
    console.print(_stages(facts))
    console.print(
        f"\nAssumed: {assumed['length']:,} tokens a sample, rows of {assumed['row_length']:,}, {assumed['answers']} answers a pair, MFU "
        f"{percent(assumed['mfu'])} (pre-training of Nemotron-4 340B: 41.0 to 42.4 %).\nOf RPO the report tells neither epochs nor batch; "
        "1 and 256 are DPO's. Answers are a lower bound; loading, evaluation and failures come on top.",
        soft_wrap=True,
    )
    console.print(f"All stages: {duration(facts['seconds'])}")


def _layouts(facts: Mapping[str, Any]) -> Table:
    table = _table("share a layer", "share a batch", "training", "and a reference", "fits", "serving", "fits", "sequences at once")
    for each in facts["layouts"]:
        room = "any" if each["sequences"] is None else f"{each['sequences']:,}"
        trains, serves = ("yes" if each[what] else "no" for what in ("trains", "serves"))
        trained = size(each["training"]), size(each["training"] + each["reference"]), trains
        table.add_row(str(each["tensor"]), f"{each['data']:,}", *trained, size(each["serving"]), serves, room)
    return table


def _stages(facts: Mapping[str, Any]) -> Table:
    learned = ("samples", "epochs", "steps", "tokens", "FLOPs", "training", "a device holds")
    table = _table("stage", *learned, "answers", "drawing them, at least")
    for each in facts["stages"]:
        drawn = (f"{each['answers']:,}", duration(each["sampling_seconds"])) if each["answers"] else ("", "")
        sizes = f"{each['samples']:,}", f"{each['epochs']:g}", f"{each['steps']:,}", count(each["tokens"]), f"{each['flops']:.1e}"
        held = "too much" if each["memory"] is None else size(each["memory"])
        table.add_row(each["name"], *sizes, duration(each["training_seconds"]), held, *drawn)
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(first, box=None, header_style="bold", padding=(0, 2, 0, 0), pad_edge=False)
    for name in others:
        table.add_column(name, justify="right")
    return table
