"""`amaru bench guesses`: what `--lookup` and `--draft` gain on real text."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from amaru.cli.output import JsonFlag, LiveLine, emit
from amaru.report.numbers import percent


def guesses(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint directory with a tokenizer.")],
    data: Annotated[list[str], typer.Option(help="Files, directories or globs in quotes whose beginnings are continued; or @python.")],
    draft: Annotated[Path | None, typer.Option(help="A smaller checkpoint that guesses too.")] = None,
    prompts: Annotated[int, typer.Option(help="Texts that are continued.")] = 20,
    prompt: Annotated[int, typer.Option(help="Tokens of each beginning.")] = 128,
    new: Annotated[int, typer.Option(help="Tokens that are written after each.")] = 128,
    together: Annotated[int, typer.Option(help="Answers that are written at once.")] = 1,
    dtype: Annotated[str | None, typer.Option(help="float32 or bfloat16; left out: as stored.")] = None,
    json: JsonFlag = False,
) -> None:
    """Measure greedy answers with and without guesses, each kind in turn: tokens per second, how many guesses are taken, and
    whether the answers are the same."""
    from amaru.config import to_dict
    from amaru.recipes.bench.guesses import Guesses, run

    settings = Guesses(prompts=prompts, prompt=prompt, new=new, together=together, dtype=dtype)
    with LiveLine() as live:
        result = run(checkpoint, draft, data, settings, live.update)
    emit({"checkpoint": checkpoint, "draft": draft, **to_dict(result)}, json=json, people=_print)


def _print(facts: Mapping[str, Any], console: Console) -> None:
    settings = facts["settings"]
    console.print(f"{settings['prompts']} prompts of {settings['prompt']} tokens, {settings['new']} new, {facts['threads']} threads")
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("guesses", "tokens/s", "times", "guessed", "taken", "passes", "same answers"):
        table.add_column(name, justify="left" if name == "guesses" else "right")
    for row in facts["rows"]:
        taken = percent(row["accepted"] / row["drafted"]) if row["drafted"] else "-"
        rate = f"{row['rate']:,.0f}", f"{row['times']:.2f}x", f"{row['drafted']:,}", taken, f"{row['passes']:,}"
        table.add_row(row["guesses"], *rate, f"{row['same']} of {settings['prompts']}")
    console.print(table)
