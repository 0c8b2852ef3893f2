"""`amaru bench train`, `memory` and `saving`: how fast this machine trains a checkpoint, what memory it takes, what saving costs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from amaru.cli.bench_input import numbers, pythons
from amaru.cli.output import JsonFlag, LiveLine, emit
from amaru.report.numbers import percent

Checkpoint = Annotated[Path, typer.Argument(help="A checkpoint directory.")]


def train(
    checkpoint: Checkpoint,
    peers: Annotated[str | None, typer.Option(metavar="NAME=PYTHON", help="Also run transformers, with a Python that has it.")] = None,
    lengths: Annotated[str, typer.Option(help="Lengths of the sequences.")] = "512,2048",
    tokens: Annotated[int, typer.Option(min=1, help="Tokens of a step: as many whole sequences as fit, one at least.")] = 1024,
    steps: Annotated[int, typer.Option(min=1, help="Steps of which the fastest counts, after one that does not.")] = 2,
    recompute_every: Annotated[int | None, typer.Option(min=1, help="Of so many layers one is run again in the backward pass.")] = None,
    json: JsonFlag = False,
) -> None:
    """Measure training steps in tokens per second: bf16 arithmetic over fp32 weights, gradients clipped, AdamW included.

    Beside it stand what the machine's matmul rate, measured in the same run, allows, our share of that (MFU), and peers.
    """
    from amaru.config import to_dict
    from amaru.recipes.bench.train import TrainBench, run

    bench = TrainBench(lengths=numbers("--lengths", lengths), tokens=tokens, steps=steps, recompute_every=recompute_every)
    with LiveLine() as live:
        result = run(checkpoint, pythons(peers), bench, live.update)
    emit(to_dict(result), json=json, people=_print_train)


def memory(
    checkpoint: Checkpoint,
    vocab: Annotated[int, typer.Option(min=1, help="Vocabulary of the head.")] = 131_072,
    head_tokens: Annotated[int, typer.Option(min=1, help="Tokens whose loss the head gives.")] = 4096,
    length: Annotated[int, typer.Option(min=1, help="Tokens of the sequence that the checkpoint learns from.")] = 2048,
    json: JsonFlag = False,
) -> None:
    """Measure peak memory of gradients: a head chunk by chunk and with all logits; a checkpoint with and without layers run again."""
    from amaru.config import to_dict
    from amaru.recipes.bench.memory import MemoryBench, run

    with LiveLine() as live:
        result = run(checkpoint, MemoryBench(vocab=vocab, head_tokens=head_tokens, length=length), live.update)
    emit(to_dict(result), json=json, people=_print_memory)


def saving(
    checkpoint: Checkpoint,
    length: Annotated[int, typer.Option(min=2, help="Tokens of each sequence of a step.")] = 512,
    rows: Annotated[int, typer.Option(min=1, help="Sequences of a step.")] = 2,
    steps: Annotated[int, typer.Option(min=1, help="Steps that tell what one takes alone.")] = 3,
    json: JsonFlag = False,
) -> None:
    """Measure how long training stands still while its state is saved, in the foreground and in the background."""
    from amaru.config import to_dict
    from amaru.recipes.bench.saving import SavingBench, run

    with LiveLine() as live:
        result = run(checkpoint, SavingBench(length=length, rows=rows, steps=steps), live.update)
    emit(to_dict(result), json=json, people=_print_saving)


def _print_train(facts: Mapping[str, Any], console: Console) -> None:
    rate = f"{facts['flops'] / 1e12:.2f} TFLOP/s"
    console.print(f"{facts['checkpoint']}, {facts['threads']} threads; this machine multiplies bf16 matrices at {rate}")
    console.print(", ".join(f"{name} {version}" for name, version in facts["versions"].items()) + "\n", style="dim")
    peers = [name for name in facts["versions"] if name not in ("amaru", "torch")]
    table = _table("tokens/s", "amaru", "limit", "MFU", *(column for peer in peers for column in (peer, "its MFU", "ratio")))
    for row in facts["rows"]:
        cells = [f"{row['ours']:,.0f}", f"{row['limit']:,.0f}", percent(row["mfu"])]
        for peer in peers:
            theirs = row["peers"][peer]
            cells += [f"{theirs:,.0f} ({row['chosen'][peer]})", percent(theirs / row["limit"]), f"{row['ours'] / theirs:.1f}x"]
        table.add_row(row["name"], *cells)
    console.print(table)
    console.print("\nlimit: three times the forward FLOPs at the matmul rate of this run; MFU: the share of it that was reached")


def _print_memory(facts: Mapping[str, Any], console: Console) -> None:
    bench = facts["settings"]
    console.print(f"head: vocabulary {bench['vocab']:,} x {bench['hidden']}, {bench['head_tokens']} tokens, {bench['chunk']} at a time;")
    console.print(f"all its logits in bf16 are {facts['logits'] / 1e9:.2f} GB; model: {facts['checkpoint']}, {bench['length']} tokens\n")
    table = _table("GB", "held before", "peak above it")
    for peak in facts["peaks"]:
        table.add_row(peak["name"], f"{peak['before'] / 1e9:.2f}", f"{peak['above'] / 1e9:.2f}")
    console.print(table)


def _print_saving(facts: Mapping[str, Any], console: Console) -> None:
    alone = f"a step alone {facts['step']:.2f} s, {facts['threads']} threads"
    console.print(f"state of {facts['checkpoint']}: {facts['bytes'] / 1e9:.2f} GB; {alone}")
    console.print(f"in the foreground  training stands still for {facts['still']:.2f} s")
    later = f"on disk {facts['written']:.2f} s later, the steps until then {facts['slower']:.2f} s slower in all"
    console.print(f"in the background  for {facts['copied']:.2f} s; {later}")


def _table(*columns: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place else "left")
    return table
