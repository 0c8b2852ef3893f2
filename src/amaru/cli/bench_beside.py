"""`amaru bench beside`: checkpoints beside one another, such as a model and what `amaru quantize` made of it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from amaru.cli.bench_input import numbers
from amaru.cli.output import JsonFlag, LiveLine, emit


def beside(
    checkpoints: Annotated[list[Path], typer.Argument(help="Checkpoint directories; ratios are to the first.")],
    prefill: Annotated[str, typer.Option(help="Prompt lengths.")] = "1024",
    decode: Annotated[str, typer.Option(help="Sequences that decode together.")] = "1,8,32",
    json: JsonFlag = False,
) -> None:
    """Measure tokens per second of several checkpoints, in turns so short that a machine that slows down slows all of them."""
    from amaru.config import to_dict
    from amaru.recipes.bench.beside import run
    from amaru.recipes.bench.infer import Bench

    bench = Bench(prefill=numbers("--prefill", prefill), decode=numbers("--decode", decode))
    with LiveLine() as live:
        found = run(checkpoints, bench, live.update)
    emit(to_dict(found), json=json, people=_print)


def _print(facts: Mapping[str, Any], console: Console) -> None:
    console.print(f"{facts['threads']} threads; tokens/s, and how many times the first")
    table = Table("checkpoint", box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("MB", *facts["columns"][0]["rates"]):
        table.add_column(name, justify="right")
    for column in facts["columns"]:
        cells = [f"{rate:,.0f} {column['ratios'][name]:.2f}x" for name, rate in column["rates"].items()]
        table.add_row(column["checkpoint"], f"{(column['codes'] + column['numbers']) / 1e6:,.0f}", *cells)
    console.print(table)
