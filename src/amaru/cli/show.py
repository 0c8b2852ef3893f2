"""`amaru show`: what a model is made of, from its config alone."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from amaru.cli import artifacts, shards
from amaru.cli.output import JsonFlag, emit
from amaru.report.numbers import count, percent
from amaru.report.stack import bars, draw

MOST_SHAPES = 4  # a kind with more than these is shown in one row
NORMS = {"rmsnorm": "RMSNorm", "layernorm1p": "LayerNorm1P"}


def command(
    model: Annotated[str, typer.Argument(help="A checkpoint directory, a preset such as nemotron-h-8b, or a file of scores or a plan.")],
    axes: Annotated[
        int | None, typer.Option(metavar="LAYER", help="Also list the tensors of this layer and the axes they are made of.")
    ] = None,
    processes: Annotated[
        int | None, typer.Option("--shards", metavar="PROCESSES", min=1, help="Also how so many processes share each tensor.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Show what a model is made of: its stack, the widths of each kind of layer, and where the parameters are.

    Only config.json is read; a preset needs no file at all. A layer is a norm and a mixer, so a block of attention and MLP is two.
    Widths that differ from layer to layer are drawn below the pattern, as shares of the largest.
    """
    from amaru.models.description import describe, stored_codes
    from amaru.models.families import config_of

    if artifacts.is_one(model):
        emit(artifacts.describe(model), json=json, people=artifacts.show)
        return
    config = config_of(model)
    facts = {"model": model, **describe(config, axes), "codes": stored_codes(model, config)}
    if processes is not None:
        facts["shards"] = shards.describe(config, processes)
    emit(facts, json=json, people=show)


def show(facts: Mapping[str, Any], console: Console) -> None:
    console.print(Text.assemble((facts["model"], "bold"), f"  {_parameters(facts)}"))
    for sentence in _sentences(facts):
        console.print(sentence)
    console.print()
    for line, is_ruler in draw(facts["pattern"], _rows(facts), console.width):
        console.print(line, style="dim" if is_ruler else None)
    for legend in _legend(facts):
        console.print(legend, style="dim")
    console.print()
    for line, style in _kinds_lines(facts):
        console.print(Padding(Text(line, style=style), (0, 0, 0, 3), expand=False) if style == "dim" else Text(line, style=style))
    if "layer" in facts:
        console.print()
        _show_layer(facts["layer"], console)
    if "shards" in facts:
        shards.show(facts["shards"], console)


def _parameters(facts: Mapping[str, Any]) -> str:
    active = facts["active_parameters"]
    return f"{count(facts['parameters'])} parameters" + (f", {count(active)} of them for a token" if active < facts["parameters"] else "")


def _sentences(facts: Mapping[str, Any]) -> Iterator[str]:
    layers, per_block, attending = len(facts["pattern"]), facts["layers_per_block"], len(facts["attention_layers"])
    blocks = f" in {layers // per_block} blocks" if per_block > 1 else ""
    tied = "tied head" if facts["tied"] else "own head"
    yield f"{layers} layers{blocks}, hidden {facts['hidden']}, vocab {facts['vocab']}, {tied}, {NORMS[facts['norm']]} {facts['norm_eps']:g}"
    share = f"attention in {attending} of {layers} layers ({percent(attending / max(1, layers))})"
    if facts["windows"]:
        widths = " or ".join(str(width) for width in sorted(set(facts["windows"].values())))
        share += f", {len(facts['windows'])} with a window of {widths}"
    if len(facts["kv_groups"]) < attending:
        share += f", {len(facts['kv_groups'])} KV caches"
    yield share
    ropes = [_rope(row["config"]["rope"]) for row in facts["kinds"] if row["config"].get("rope")]
    yield from dict.fromkeys(ropes)
    meta = f"; {facts['meta_tokens']} meta tokens in front of every sequence" if facts["meta_tokens"] else ""
    for row in facts["codes"]:
        held = f"{count(row['parameters'])} parameters ({percent(row['parameters'] / facts['parameters'])})"
        yield f"codes: {row['stored_as']}, {row['tensors']} weights with {held}"
    yield f"its config names {facts['max_positions']:,} positions{meta}"


def _rope(rope: Mapping[str, Any]) -> str:
    """`rotary base 500,000, llama3 (factor 8, low 1, high 4, original 8192)`"""
    part = "" if rope["fraction"] == 1 else f", {percent(rope['fraction'])} of the channels"
    scaling = rope["scaling"] or {}
    numbers = ", ".join(f"{name} {value:g}" for name, value in scaling.items() if name != "kind")
    return f"rotary base {rope['base']:,.0f}{part}" + (f", {scaling['kind']} ({numbers})" if scaling else "")


def _rows(facts: Mapping[str, Any]) -> dict[str, str]:
    """Below the pattern: which layers see a window (w) or all (a), which share a KV cache (letters), and widths that differ."""
    rows, layers = {}, range(len(facts["pattern"]))
    if facts["windows"]:
        seen = {index: "w" if index in facts["windows"] else "a" for index in facts["attention_layers"]}
        rows["window"] = "".join(seen.get(index, " ") for index in layers)
    if len(facts["kv_groups"]) < len(facts["attention_layers"]):
        cache = {index: chr(ord("a") + number % 26) for number, group in enumerate(facts["kv_groups"]) for index in group}
        rows["kv"] = "".join(cache.get(index, " ") for index in layers)
    return rows | {name: bars(sizes) for name, sizes in facts["varying_widths"].items()}


def _legend(facts: Mapping[str, Any]) -> Iterator[str]:
    """What the rows below the pattern mean."""
    if facts["windows"]:
        yield "window: w sees a window, a sees all"
    if len(facts["kv_groups"]) < len(facts["attention_layers"]):
        yield "kv: layers of one letter share keys and values, those of the first"
    if facts["varying_widths"]:
        yield f"bars: shares of the largest; {_ranges(facts, list(range(len(facts['pattern']))))}"


def _kinds_lines(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Lines and their style: for each shape of layer its parameters, and below it its widths."""
    total = facts["parameters"]

    def line(letter: str, name: str, layers: str, each: str, parameters: int) -> str:
        return f"{letter:<3}{name:<19}{layers:>7}{each:>22}{count(parameters):>12}{percent(parameters / total):>9}"

    yield f"{'':<3}{'kind':<19}{'layers':>7}{'each':>22}{'parameters':>12}{'share':>9}", "bold"
    for row in _rows_of_kinds(facts):
        yield line(row["letter"], row["kind"], str(row["layers"]), row["each"], row["parameters"]), ""
        yield row["widths"], "dim"
    for name in ("embedding and head", "meta tokens", "norm"):
        if name in facts["parameters_by_kind"]:
            yield line("", name, "", "", facts["parameters_by_kind"][name]), ""
    yield line("", "total", str(len(facts["pattern"])), "", total), "bold"


def _rows_of_kinds(facts: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A row for each shape; one for all shapes of a kind that has many."""
    for kind in dict.fromkeys(row["kind"] for row in facts["kinds"]):
        shapes = [row for row in facts["kinds"] if row["kind"] == kind]
        for group in [[row] for row in shapes] if len(shapes) <= MOST_SHAPES else [shapes]:
            layers = sorted(index for row in group for index in row["layers"])
            sizes = [row["parameters_each"] for row in group]
            yield {
                "letter": group[0]["letter"],
                "kind": kind,
                "layers": len(layers),
                "each": count(sizes[0]) if len(group) == 1 else f"{count(min(sizes))} to {count(max(sizes))}",
                "parameters": sum(row["parameters_each"] * len(row["layers"]) for row in group),
                "widths": group[0]["widths"] if len(group) == 1 else f"{len(group)} shapes; {_ranges(facts, layers)}",
            }


def _ranges(facts: Mapping[str, Any], layers: list[int]) -> str:
    """`ffn 512 to 2048, head 4 to 8`, over these layers."""
    found = {name: [sizes[index] for index in layers if sizes[index] is not None] for name, sizes in facts["varying_widths"].items()}
    return ", ".join(f"{name} {min(sizes)} to {max(sizes)}" for name, sizes in found.items() if sizes)


def _show_layer(layer: Mapping[str, Any], console: Console) -> None:
    console.print(f"layer {layer['index']}: {layer['kind']}", style="bold")
    axes = Table("axis", "size", "under", box=None, padding=(0, 2, 0, 0))
    for axis in layer["axes"]:
        axes.add_row(axis["name"], str(axis["size"]), "fixed" if axis["fixed"] else ", ".join(axis["parents"]))
    tensors = Table("tensor", "shape", "parameters", "layout", box=None, padding=(0, 2, 0, 0))
    for tensor in layer["tensors"]:
        shape = " x ".join(map(str, tensor["shape"])) + (" fp32" if tensor["always_fp32"] else "")
        tensors.add_row(tensor["name"], shape, count(tensor["parameters"]), tensor["layout"])
    console.print(axes)
    console.print()
    console.print(tensors)
