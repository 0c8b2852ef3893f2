"""`amaru eval`: a checkpoint measured on text, or by tasks (eval_tasks)."""

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
        list[str] | None,
        typer.Option(help="Text: files, directories or globs in quotes, given once or several times; @python is Python's own source."),
    ] = None,
    tasks: Annotated[
        list[str] | None,
        typer.Option(
            help="A task file (PATH or PATH:LAYOUT), or passkey, needles, key-value, variables, common-words, recall, copy; several times."
        ),
    ] = None,
    suite: Annotated[str | None, typer.Option(help="Instead the tables of a paper: nemotron-h.")] = None,
    files: Annotated[Path, typer.Option(help="Below which directory the task files of a suite are looked for.")] = Path("."),
    teacher: Annotated[Path | None, typer.Option(help="Also compare with this checkpoint, token by token.")] = None,
    field: Annotated[str, typer.Option(help="The text field of .jsonl files.")] = "text",
    row_length: Annotated[int, typer.Option(help="Tokens of context; documents are cut into rows of this length.")] = 1024,
    stride: Annotated[
        int | None, typer.Option(help="Windows that overlap: each document by itself, in windows of --row-length so many tokens apart.")
    ] = None,
    batch_rows: Annotated[int, typer.Option(help="Rows that run together.")] = 4,
    limit_rows: Annotated[int | None, typer.Option(help="Only the first so many rows.")] = None,
    against: Annotated[Path | None, typer.Option(help="Put the tasks to this checkpoint too, and test whether the two differ.")] = None,
    few_shot: Annotated[int, typer.Option(help="Solved items before each item of a task file.")] = 0,
    examples: Annotated[Path | None, typer.Option(help="Where those are from; else the first of the file itself.")] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first so many items of each task file.")] = None,
    lengths: Annotated[str, typer.Option(help="Tokens of what is made here, such as 1k,4k,128k.")] = "1k,4k",
    depths: Annotated[int, typer.Option(help="Places of what is hidden, from beginning to end.")] = 5,
    samples: Annotated[int, typer.Option(help="Prompts for each length and depth.")] = 5,
    judge: Annotated[str | None, typer.Option(help="Where the model that judges conversations is: http://localhost:8000/v1.")] = None,
    judge_model: Annotated[str | None, typer.Option(help="Its name there.")] = None,
    judge_key: Annotated[str | None, typer.Option(help="The environment variable that holds its API key.")] = None,
    references: Annotated[Path | None, typer.Option(help="Good answers to conversations, which the judge also sees.")] = None,
    pairwise: Annotated[
        bool, typer.Option("--pairwise", help="With --against the judge also sees both models side by side, in either order.")
    ] = False,
    chat: Annotated[bool, typer.Option("--chat", help="Ask for answers by the model's chat template.")] = False,
    memory: Annotated[str, typer.Option(help="For states and caches while answers are generated.")] = "2GiB",
    cache: Annotated[str, typer.Option(help="Where judged items are kept; 'none' keeps nothing.")] = "runs/evaluations.sqlite",
    report: Annotated[Path | None, typer.Option(help="Write tables and figures to this HTML file.")] = None,
    out: Annotated[Path | None, typer.Option(help="Keep what was found in this run directory, for amaru report.")] = None,
    json: JsonFlag = False,
) -> None:
    """Measure a checkpoint, on text or by tasks.

    With --data: loss, next-token accuracy and bits per byte; with --teacher also the KL to it and how often both agree, by position.
    With --suite: the benchmark tables of a paper, its published figures beside, and a sentence for what is missing.
    With --tasks: scores with their intervals; with --against also those of another model, and whether the difference is one.
    """
    from amaru.cli.eval_tasks import Written, fill, judge_of, names, put
    from amaru.errors import ConfigError
    from amaru.recipes.evaluate import TextMeasured

    if sum(map(bool, (data, tasks, suite))) != 1:
        raise ConfigError("Give one of --data TEXT, to measure the loss, --tasks FILE and --suite NAME; more would be several results.")
    written = Written(report, out, json)
    if suite:
        found = judge_of(judge, judge_model, judge_key, cache)
        plain = names([], None, lengths, memory, cache)
        fill(suite, checkpoint, files, {"limit": limit, "memory": plain["memory"], "cache": plain["cache"]}, found, written)
        return
    if tasks:
        settings: dict[str, Any] = {"few_shot": few_shot, "limit": limit, "depths": depths, "samples": samples, "chat": chat}
        settings |= {"references": None if references is None else str(references), "pairwise": pairwise}
        found = judge_of(judge, judge_model, judge_key, cache)
        put(checkpoint, against, settings | names(tasks, examples, lengths, memory, cache), found, written)
        return
    facts = _on_text(checkpoint, tuple(data or ()), teacher, field, (row_length, stride), (batch_rows, limit_rows))
    with LiveLine() as live:
        written.keep(TextMeasured(data=tuple(data or ()), row_length=row_length, stride=stride), facts, live)
    emit(facts, json=json, people=show)


def _on_text(
    checkpoint: Path,
    data: tuple[str, ...],
    teacher: Path | None,
    field: str,
    window: tuple[int, int | None],
    rows_at_once: tuple[int, int | None],
) -> dict[str, Any]:
    from amaru.config import to_dict
    from amaru.data.loader import in_order
    from amaru.data.packing import pack
    from amaru.errors import ConfigError
    from amaru.eval.agreement import ByPosition
    from amaru.eval.perplexity import evaluate, token_bytes
    from amaru.eval.windows import windows
    from amaru.models.checkpoint import load
    from amaru.recipes.distill import one_tokenizer
    from amaru.recipes.sources import Source, gather
    from amaru.recipes.text import tokenizer_of

    (row_length, stride), (batch_rows, limit_rows) = window, rows_at_once
    if batch_rows < 1 or (limit_rows is not None and limit_rows < 1):
        raise ConfigError(f"--batch-rows and --limit-rows are at least 1; got {batch_rows} and {limit_rows}.")
    tokenizer = one_tokenizer(teacher, checkpoint) if teacher else tokenizer_of(checkpoint)
    corpus = gather(Source(data=data, field=field))
    rows = pack(corpus.documents, tokenizer, row_length)
    decoder, compared = load(checkpoint), load(teacher) if teacher else None
    by_position = ByPosition() if teacher else None
    with LiveLine() as live:
        live.note(f"{corpus.summary}; {rows}")
        batches = in_order(rows, batch_rows, limit_rows) if stride is None else windows(rows, row_length, stride, batch_rows, limit_rows)
        followed = _followed(batches, live)
        result = evaluate(decoder, followed, compared, token_bytes=token_bytes(tokenizer), by_position=by_position)
    facts = {
        "checkpoint": str(checkpoint),
        "data": data,
        "text": str(corpus.summary),
        "fingerprint": corpus.summary.fingerprint,
        "row_length": row_length,
        "stride": stride,
        **to_dict(result),
        "perplexity": result.perplexity,
    }
    return facts if by_position is None else facts | {"teacher": str(teacher), "by_position": [to_dict(row) for row in by_position.rows()]}


def _followed(batches: Iterator[Any], live: LiveLine) -> Iterator[Any]:
    done = 0
    for batch in batches:
        yield batch
        done += len(batch.rows)
        live.update(f"{done} rows")


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
    if "teacher" in facts:
        console.print(positions(facts["by_position"]))
    if "report" in facts:
        console.print(f"report: {facts['report']}", soft_wrap=True)


def positions(rows: list[Mapping[str, Any]]) -> Table:
    """Agreement by the place of a token in its row."""
    table = Table("places", "tokens", "KL", "same choice", "same five", box=None, pad_edge=False)
    for row in rows:
        places = f"{row['first']:,} to {row['last']:,}"
        table.add_row(places, f"{row['tokens']:,}", f"{row['kl']:.4f}", percent(row["top1"]), percent(row["top5"]))
    return table
