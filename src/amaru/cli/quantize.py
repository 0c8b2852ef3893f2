"""`amaru quantize`: the same model with weights of 8 or 4 bits."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from amaru.cli.output import JsonFlag, LiveLine, emit
from amaru.report.numbers import percent


def command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A checkpoint of any format that is read.")],
    to: Annotated[str, typer.Option(help="int8, int4 or fp8.")],
    out: Annotated[Path, typer.Option(help="The directory to write; a checkpoint there is replaced.")],
    group: Annotated[int, typer.Option(help="Columns that share a scale in 4 bits: 32, 64 or 128.")] = 32,
    head: Annotated[str | None, typer.Option(help="Of a head of its own, the same; left out: int8 beside int4, else as the rest.")] = None,
    keep: Annotated[
        list[str] | None, typer.Option(help="What stays as it is: a kind of layer, or a regular expression that weights' names contain.")
    ] = None,
    data: Annotated[
        list[str] | None, typer.Option(help="Text on which the result is compared with the original; @python is Python's own source.")
    ] = None,
    row_length: Annotated[int, typer.Option(help="Tokens of context in that comparison.")] = 512,
    limit_rows: Annotated[int, typer.Option(help="At most so many rows of it.")] = 64,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, say what would be written, and write nothing.")] = False,
    json: JsonFlag = False,
) -> None:
    """Write a checkpoint whose projections are codes of 8 or 4 bits; every verb that runs models takes it like any other.

    Norms, convolutions, routers, the scan's parameters and the embedding stay, and so does a head that is the embedding. The weights are
    read and written one by one, whatever the size of the model. With --data the perplexity of both, the divergence and how often both
    choose the same token are measured, printed, and kept in quantization.json.
    """
    from amaru.config import from_dict
    from amaru.precision import Scheme
    from amaru.recipes.quantize import Job, QuantizeRecipe

    scheme = from_dict(Scheme, {"to": to, "group": group, "head": head, "keep": tuple(keep or ())})
    asked = {"data": tuple(data or ()), "row_length": row_length, "limit_rows": limit_rows}
    job = Job(QuantizeRecipe(checkpoint=model, out=str(out), scheme=scheme, **asked))
    if dry_run:
        emit(job.describe(), json=json, people=show)
        return
    with LiveLine() as live:
        facts = job.run(live.update)
    emit(facts, json=json, people=show)


def show(facts: Mapping[str, Any], console: Console) -> None:
    table = Table("tensors", "stored as", box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("count", "MB before", "MB after"):
        table.add_column(name, justify="right")
    for row in facts["coverage"]:
        table.add_row(row["tensors"], row["stored"], str(row["count"]), *(f"{row[name] / 1e6:,.2f}" for name in ("before", "after")))
    console.print(table)
    share = percent(facts["bytes"] / facts["bytes_before"])
    console.print(f"\n{facts['out']}: {facts['bytes'] / 1e6:,.1f} MB of {facts['bytes_before'] / 1e6:,.1f} ({share})", soft_wrap=True)
    for encoding, error in facts.get("weight_error", {}).items():
        console.print(f"weights that are {encoding} changed by {percent(error)}")
    if "quality" in facts:
        _show_quality(facts["quality"], console)
    elif "seconds" in facts:
        console.print("not compared with the original (no --data)")


def _show_quality(quality: Mapping[str, Any], console: Console) -> None:
    console.print(
        f"perplexity {quality['perplexity_before']:.3f} -> {quality['perplexity']:.3f} on {quality['tokens']:,} tokens; "
        f"KL {quality['kl']:.5f} nats/token; the same choice on {percent(quality['same_choice'])}",
        soft_wrap=True,
    )
