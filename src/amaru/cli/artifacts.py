"""`amaru show scores.safetensors`: what a stage of compression left behind."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from amaru.cli import layer_times, show_plan
from amaru.report.numbers import percent
from amaru.report.stack import BARS

WIDE = 24  # characters of a bar


def is_one(path: str) -> bool:
    return path.endswith(".safetensors") and Path(path).is_file()


def describe(path: str) -> dict[str, Any]:
    """The facts of scores, of a plan or of a table of times; raises `ArtifactError` for another file, or one that is not whole."""
    from amaru.compress import Plan, Scores
    from amaru.config.artifact import kind_of

    if kind_of(path) == "latency":
        return {"file": path, "kind": "latency", **layer_times.describe(path)}
    if kind_of(path) == "plan":
        return {"file": path, "kind": "plan", **Plan.load(path).facts()}
    return {"file": path, "kind": "scores", **_scores(Scores.load(path))}


def _scores(scores: Any) -> dict[str, Any]:
    layers = [
        {
            "layer": index,
            "removal": None if scores.layers is None else float(scores.layers[index]),
            **{metric: float(array[index]) for metric, array in scores.removals.items()},
            "widths": {axes: {"shape": list(array.shape), "best_half": _best_half(array)} for axes, array in found.items()},
        }
        for index, found in enumerate(scores.within)
    ]
    how = {name: getattr(scores, name) for name in ("samples", "tokens", "ffn_read", "fluctuation", "layers_by", "made_from")}
    return {
        **how,
        "hidden": {"shape": [len(scores.hidden)], "best_half": _best_half(scores.hidden)},
        "tokens_seen": None if scores.vocab is None else int((scores.vocab > 0).sum()),
        "per_layer": layers,
    }


def _best_half(array: Any) -> float:
    """The share of the energy that the larger half holds: half where all matter alike, one where the rest is idle."""
    energy = sorted((float(value) ** 2 for value in array.ravel()), reverse=True)
    total = sum(energy)
    return sum(energy[: len(energy) // 2]) / total if total else 0.0


def show(facts: Mapping[str, Any], console: Console) -> None:
    printers = {"plan": show_plan.show, "latency": layer_times.show}
    printers.get(facts["kind"], _print_scores)(facts, console)


def _print_scores(facts: Mapping[str, Any], console: Console) -> None:
    console.print(f"importance on {facts['samples']} samples, {facts['tokens']:,} tokens; neurons read {facts['ffn_read']}")
    if facts["fluctuation"]:
        console.print(f"by fluctuation (FLAP): {', '.join(facts['fluctuation'])}")
    if facts["tokens_seen"] is not None:
        console.print(f"{facts['tokens_seen']:,} different tokens occur")
    for name, fingerprint in facts["made_from"].items():
        console.print(f"made from {name} {fingerprint}", style="dim", soft_wrap=True)
    console.print(f"\nhidden {facts['hidden']['shape'][0]}: the better half holds {percent(facts['hidden']['best_half'])} of the energy\n")
    metrics = [name for name in facts["per_layer"][0] if name not in ("layer", "removal", "widths")] if facts["per_layer"] else []
    table = Table("layer", *metrics, "", "widths: energy of the better half", box=None, header_style="bold", padding=(0, 2, 0, 0))
    largest = max((row["removal"] for row in facts["per_layer"] if row["removal"] is not None and row["removal"] < float("inf")), default=0)
    for row in facts["per_layer"]:
        widths = ", ".join(f"{axes} {percent(found['best_half'])}" for axes, found in row["widths"].items())
        table.add_row(str(row["layer"]), *(f"{row[metric]:.3g}" for metric in metrics), _bar(row["removal"], largest), widths)
    console.print(table)


def _bar(value: float | None, largest: float) -> str:
    if value is None or not largest:
        return ""
    eighths = round(min(1.0, value / largest) * WIDE * 8)
    return BARS[-1] * (eighths // 8) if eighths >= 8 else "·"
