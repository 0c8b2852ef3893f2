"""`amaru eval`: loss and next-token accuracy of a checkpoint on text."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from amaru.cli.output import JsonFlag, LiveLine, emit
from amaru.report.numbers import percent


def command(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint directory with a tokenizer.")],
    data: Annotated[
        list[str], typer.Option(help="Files, directories or globs in quotes, given once or several times; @python is Python's own source.")
    ],
    teacher: Annotated[Path | None, typer.Option(help="Also compare with this checkpoint, token by token.")] = None,
    field: Annotated[str, typer.Option(help="The text field of .jsonl files.")] = "text",
    row_length: Annotated[int, typer.Option(help="Tokens of context; documents are cut into rows of this length.")] = 1024,
    batch_rows: Annotated[int, typer.Option(help="Rows that run together.")] = 4,
    limit_rows: Annotated[int | None, typer.Option(help="Only the first so many rows.")] = None,
    json: JsonFlag = False,
) -> None:
    """Measure loss, next-token accuracy and bits per byte on text; with --teacher also the KL to it and how often both agree."""
    from amaru.config import to_dict
    from amaru.data.loader import in_order
    from amaru.data.packing import pack
    from amaru.errors import ConfigError
    from amaru.eval.perplexity import evaluate, token_bytes
    from amaru.models.checkpoint import load
    from amaru.recipes.distill import one_tokenizer
    from amaru.recipes.sources import Source, gather
    from amaru.recipes.text import tokenizer_of

    if batch_rows < 1 or (limit_rows is not None and limit_rows < 1):
        raise ConfigError(f"--batch-rows and --limit-rows are at least 1; got {batch_rows} and {limit_rows}.")
    tokenizer = one_tokenizer(teacher, checkpoint) if teacher else tokenizer_of(checkpoint)
    corpus = gather(Source(data=tuple(data), field=field))
    rows = pack(corpus.documents, tokenizer, row_length)
    decoder, compared = load(checkpoint), load(teacher) if teacher else None
    with LiveLine() as live:
        live.note(f"{corpus.summary}; {rows}")
        batches = _followed(in_order(rows, batch_rows, limit_rows), min(len(rows), limit_rows or len(rows)), live)
        result = evaluate(decoder, batches, compared, token_bytes=token_bytes(tokenizer))
    facts = {
        "checkpoint": checkpoint,
        "data": data,
        "text": str(corpus.summary),
        "fingerprint": corpus.summary.fingerprint,
        "row_length": row_length,
        **to_dict(result),
        "perplexity": result.perplexity,
    }
    emit(facts if teacher is None else facts | {"teacher": teacher}, json=json, people=show)


def _followed(batches: Iterator[Any], rows: int, live: LiveLine) -> Iterator[Any]:
    done = 0
    for batch in batches:
        yield batch
        done += len(batch.rows)
        live.update(f"{done} of {rows} rows")


def show(facts: Mapping[str, Any], console: Console) -> None:
    grid = Table.grid(padding=(0, 2))
    grid.add_row("tokens predicted", f"{facts['tokens']:,}")
    grid.add_row("loss", f"{facts['loss']:.4f} nats/token  (perplexity {facts['perplexity']:.2f})")
    if facts["bits_per_byte"] is not None:
        grid.add_row("bits per byte", f"{facts['bits_per_byte']:.4f}")
    grid.add_row("next-token accuracy", percent(facts["next_token_accuracy"]))
    if "teacher" in facts:
        grid.add_row("KL to the teacher", f"{facts['teacher_kl']:.4f} nats/token")
        grid.add_row("same choice as the teacher", percent(facts["teacher_agreement"]))
    console.print(grid)
