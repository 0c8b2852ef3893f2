"""`amaru bench infer` and `long`: how fast this machine runs a checkpoint, beside its limits, other programs, a Transformer."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from amaru.cli.bench_beside import beside
from amaru.cli.bench_guesses import guesses
from amaru.cli.bench_input import numbers, pythons
from amaru.cli.bench_train import memory, saving, train
from amaru.cli.output import JsonFlag, LiveLine, emit
from amaru.report.numbers import percent


def infer(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint directory.")],
    peers: Annotated[
        str | None,
        typer.Option(metavar="NAME=PYTHON,...", help="Also run transformers, vllm or llama.cpp, each with a Python that has it."),
    ] = None,
    prefill: Annotated[str, typer.Option(help="Prompt lengths.")] = "1024,2048",
    decode: Annotated[str, typer.Option(help="Sequences that decode together.")] = "1,8,32",
    state: Annotated[str, typer.Option(help="How SSM states are held: fp32, bf16 (half the bytes), or fp32,bf16: rows of both.")] = "fp32",
    json: JsonFlag = False,
) -> None:
    """Measure tokens per second, the limits that memory and arithmetic set on this machine in the same run, and peers side by side.

    Keep the machine quiet: everything is best-of-several, but another busy program still shows.
    """
    from amaru.config import to_dict
    from amaru.recipes.bench.infer import Bench, run

    rows = {"prefill": numbers("--prefill", prefill), "decode": numbers("--decode", decode)}
    bench = Bench(**rows, states=tuple(state.split(",")))  # type: ignore[arg-type]  # checked by the config
    with LiveLine() as live:
        result = run(checkpoint, pythons(peers), bench, live.update, note=live.note)
    emit(to_dict(result), json=json, people=_print_infer)


def long(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint directory.")],
    prompt: Annotated[int, typer.Option(help="Tokens of each prompt.")] = 65536,
    new: Annotated[int, typer.Option(help="Tokens written after each.")] = 1024,
    memory: Annotated[str, typer.Option(help="Bytes for states and caches, such as 2GB.")] = "2GB",
    json: JsonFlag = False,
) -> None:
    """Measure output tokens per second behind long prompts, for this model and a Transformer of as many parameters, in this engine.

    The largest batch that fits into the memory runs; reading the prompts counts. Pieces are timed at their real depth and added up.
    """
    from amaru.config import to_dict
    from amaru.config.units import parse_bytes
    from amaru.recipes.bench.long import Long, beside_a_transformer

    settings = Long(prompt=prompt, new=new, memory=parse_bytes(memory))
    with LiveLine() as live:
        found = beside_a_transformer(checkpoint, settings, live.update)
    emit({name: to_dict(each) for name, each in found.items()}, json=json, people=_print_long)


def _print_infer(facts: Mapping[str, Any], console: Console) -> None:
    rates = ", ".join(f"{kind} {rate / 1e12:.2f} TFLOP/s" for kind, rate in facts["flops"].items())
    console.print(f"{facts['checkpoint']}, {facts['threads']} threads; this machine reads {facts['bandwidth'] / 1e9:.1f} GB/s; {rates}")
    console.print(", ".join(f"{name} {version}" for name, version in facts["versions"].items()) + "\n", style="dim")
    peers = [name for name in facts["versions"] if name not in ("amaru", "torch")]
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("tokens/s")
    for name in ("amaru", "limit", "of it", "then", "of it", *(column for peer in peers for column in (peer, "ratio"))):
        table.add_column(name, justify="right")
    for row in facts["rows"]:
        cells = [f"{row['ours']:,.0f}"]
        for limit in (row["limit"], row["then"]):
            cells += [f"{limit:,.0f}", percent(row["ours"] / limit)]
        for peer in peers:
            theirs = row["peers"][peer]
            cells += [f"{theirs:,.0f}", f"{row['ours'] / theirs:.1f}x"] if theirs else ["-", ""]
        table.add_row(row["name"], *cells)
    console.print(table)
    console.print("\nlimit: bytes and FLOPs of the row at the rates measured when this began, whichever takes longer;")
    console.print("then: the same at the rates right before and after the repetition that counts")


def _print_long(facts: Mapping[str, Any], console: Console) -> None:
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("", "parameters", "MB a sequence", "batch", "prompt, s", "step, ms", "output tokens/s"):
        table.add_column(name, justify="left" if not name else "right")
    for name, row in facts.items():
        cells = f"{row['parameters']:,}", f"{row['bytes_per_sequence'] / 1e6:,.0f}", str(row["batch"])
        speed = f"{row['prefill_seconds']:.1f}", f"{1e3 * row['step_seconds']:.1f}", f"{row['tokens_per_second']:.2f}"
        table.add_row(name, *cells, *speed)
    console.print(table)
    rates = [row["tokens_per_second"] for row in facts.values()]
    console.print(f"\n{rates[0] / rates[1]:.1f} times as many output tokens per second")


commands = {"infer": infer, "beside": beside, "guesses": guesses, "long": long, "train": train, "memory": memory, "saving": saving}
