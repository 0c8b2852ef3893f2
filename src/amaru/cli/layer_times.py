"""Measured times of layers: `amaru plan MODEL --measure`, and `amaru show latency.safetensors`."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from amaru.report.numbers import duration, percent


def measured(config: Any, prompt: int, context: int, batch: int, progress: Any) -> dict[str, Any]:
    """The times of a model's own layers on this machine, and of the model as their sum."""
    from amaru.recipes.latency import table_for

    pairs = [(config.hidden, layer) for layer in dict.fromkeys(config.layers)]
    table = table_for(config, pairs, prompt=prompt, context=max(1, context), batches=(batch,), progress=progress)
    counts = Counter(config.layers)
    own = [{**row, "count": counts[point.layer]} for row, point in _rows(table) if (config.hidden, point.layer) in pairs]
    total = {"prefill": table.prefill(config)[0], "decode": [table.decode(config, batch)[0]]}
    fixed = table.fixed(config.hidden)
    rest = {"prefill": float(fixed[0]), "decode": [float(fixed[1])]}
    return {"circumstances": _circumstances(table), "points": own, "rest": rest, "total": total}


def describe(path: str | Path) -> dict[str, Any]:
    """The facts of a table; raises `ArtifactError` for another file, or one that is not whole."""
    from amaru.compress.latency import LatencyTable

    table = LatencyTable.load(path)
    return {"circumstances": _circumstances(table), "points": [row for row, _ in _rows(table)]}


def _circumstances(table: Any) -> dict[str, Any]:
    from amaru.config import to_dict

    return {**to_dict(table.circumstances), "described": table.circumstances.describe()}


def _rows(table: Any) -> list[tuple[dict[str, Any], Any]]:
    from amaru.config import to_dict

    return [({**to_dict(point), "shape": point.layer.describe(), "kind": point.layer.kind}, point) for point in table.points]


def show(facts: Mapping[str, Any], console: Console) -> None:
    told, points = facts["circumstances"], facts["points"]
    console.print(f"\nmeasured: {told['described']}\n", soft_wrap=True)
    counted = any("count" in row for row in points)
    table = Table("kind", "widths", "hidden", box=None, header_style="bold", padding=(0, 2, 0, 0), pad_edge=False)
    steps = [f"step of {batch}" for batch in told["batches"]]
    for name in (*(["layers"] if counted else []), "N", "prefill each", *(f"{step} each" for step in steps), "spread"):
        table.add_column(name, justify="right")
    for row in points:
        times = (duration(row["prefill"]), *map(duration, row["decode"]))
        count = [str(row["count"])] if counted else []
        table.add_row(row["kind"], row["shape"], f"{row['hidden']:,}", *count, str(row["blocks"]), *times, percent(row["spread"]))
    for name in ("rest", "total"):
        if name in facts:
            times = (duration(facts[name]["prefill"]), *map(duration, facts[name]["decode"]))
            table.add_row({"rest": "all else", "total": "the model"}[name], "", "", *([""] if counted else []), "", *times, "")
    console.print(table)
    if below := [row for row in points if min(row["prefill"], *row["decode"]) < 0]:
        console.print(f"\n{len(below)} of them seem to take less than nothing: noise outweighs the layer. They are summed as they are.")
    console.print("\nOf stacks of N and 2N layers, so that what is not a layer cancels; spread: between the quartiles of repetitions.")
