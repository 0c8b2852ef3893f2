"""`amaru data prepare` and `amaru data show`: text to shards of tokens, and a look into them."""

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from amaru.cli.output import JsonFlag, LiveLine, emit
from amaru.report.numbers import count as short

BAR = 40  # characters of the longest bar of a histogram


def prepare(
    data: Annotated[list[str], typer.Argument(help="Files, directories or globs in quotes; @python is Python's own source.")],
    out: Annotated[Path, typer.Option(help="The directory that is written.")],
    tokenizer: Annotated[str | None, typer.Option(help="A directory with a tokenizer, such as a checkpoint.")] = None,
    vocab: Annotated[int | None, typer.Option(help="Learn a tokenizer of this size from the text instead.")] = None,
    field: Annotated[str, typer.Option(help="The text field of .jsonl, the text column of .parquet.")] = "text",
    validation_share: Annotated[float, typer.Option(help="Share of documents kept for validation.", min=0, max=1)] = 0.02,
    seed: Annotated[int, typer.Option(help="Chooses the documents for validation.", min=0)] = 0,
    shard_size: Annotated[str, typer.Option(help="About how much text becomes one shard.")] = "64MB",
    workers: Annotated[int | None, typer.Option(help="Processes; the default is one for each core.", min=1)] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be read, and into how many shards.")] = False,
    json: JsonFlag = False,
) -> None:
    """Tokenise text once, for many runs and for more text than memory holds. The same command continues an interrupted one."""
    from amaru.cli.settings import print_forecast
    from amaru.config.units import parse_bytes
    from amaru.data.prepare import Reading
    from amaru.recipes.prepare import PrepareRecipe, forecast, prepare_text

    reading = Reading(field=field, validation_share=validation_share, seed=seed)
    recipe = PrepareRecipe(data=tuple(data), tokenizer=tokenizer, vocab=vocab, reading=reading, shard_bytes=parse_bytes(shard_size))
    workers = workers or os.cpu_count() or 1
    if dry_run:
        emit(forecast(recipe, out, workers), json=json, people=print_forecast)
        return
    with LiveLine() as progress:
        found = prepare_text(recipe, out, workers, progress)
    following = [shlex.join(["amaru", "data", "show", str(out)]), shlex.join(["amaru", "train", "--data", str(out)])]
    emit({"out": out, **_facts(found.facts), "next": following}, json=json, people=_print_prepared)


def show(
    directory: Annotated[Path, typer.Argument(help="A directory that `amaru data prepare` wrote.")],
    samples: Annotated[int, typer.Option(help="Documents to print the beginning of.", min=0)] = 3,
    characters: Annotated[int, typer.Option(help="Characters of each.", min=1)] = 200,
    seed: Annotated[int, typer.Option(help="Chooses the samples.", min=0)] = 0,
    json: JsonFlag = False,
) -> None:
    """Print counts, the lengths of documents, and some of them decoded."""
    from amaru.data.samples import samples_of
    from amaru.data.shards import Prepared

    found = Prepared.load(directory)
    chosen = [sample._asdict() for sample in samples_of(found, samples, characters, seed)]
    emit({"directory": directory, **_facts(found.facts), "samples": chosen}, json=json, people=_print_contents)


commands = {"prepare": prepare, "show": show}


def _facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: facts[name] for name in ("read", "kept", "bytes", "dropped", "duplicates_by", "lengths", "fingerprint")} | {
        "shards": len(facts["shards"])
    }


def _print_prepared(facts: Mapping[str, Any], console: Console) -> None:
    _print_counts(facts, console)
    if facts["dropped"]:
        console.print(f"{'':22}each with its reason in {facts['out'] / 'dropped.jsonl'}")
    console.print("\nNext:")
    for line in facts["next"]:
        console.print(f"  {line}")


def _print_counts(facts: Mapping[str, Any], console: Console) -> None:
    grid = Table.grid(padding=(0, 2))
    for side, kept in facts["kept"].items():
        grid.add_row(side, f"{kept['documents']:,} documents, {kept['tokens']:,} tokens")
    tokens = sum(kept["tokens"] for kept in facts["kept"].values())
    grid.add_row("text", f"{facts['bytes'] / 1e6:.1f} MB in {facts['shards']} shards, {facts['bytes'] / max(1, tokens):.2f} bytes a token")
    grid.add_row("read", f"{facts['read']:,} records, {sum(facts['dropped'].values()):,} dropped")
    for reason, count in facts["dropped"].items():
        more = f" (equal in {facts['duplicates_by']})" if reason == "duplicate" else ""
        grid.add_row("", f"{count:,} {reason}{more}")
    console.print(grid)


def _print_contents(facts: Mapping[str, Any], console: Console) -> None:
    _print_counts(facts, console)
    console.print("\nTokens a document:")
    most = max(facts["lengths"].values(), default=1)
    for power, count in facts["lengths"].items():
        console.print(f"  {f'{short(int(power))} to {short(2 * int(power))}':>16}  {'█' * max(1, round(BAR * count / most))} {count:,}")
    for sample in facts["samples"]:
        console.print(f"\n{sample['source']}  ({sample['tokens']:,} tokens, {sample['side']})", style="bold")
        console.print(sample["text"])
