"""The report of a training run, and the sections that other reports borrow: curves and what exactly was run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from amaru.config.records import read_lines, read_record
from amaru.report.figures import loss_curves
from amaru.report.numbers import count, percent
from amaru.report.page import Card, Cards, Drawing, Facts, Page, Section

POINTS = 250  # of a curve; more cannot be told apart
Curve = list[tuple[float, float]]


def training_page(directory: Path) -> Page:
    """The page of `amaru train`."""
    facts, evaluation = read_record(directory / "run.json"), read_record(directory / "quality-model.json")
    steps = metrics(directory / "model-training")
    cards = [
        Card("validation loss", f"{evaluation['loss']:.4f}", "nats a token, all validation rows"),
        Card("next-token accuracy", percent(evaluation["accuracy"])),
        Card("tokens", count(sum(step["tokens"] for step in steps)), f"in {len(steps):,} steps"),
        Card("time", f"{sum(step['seconds'] for step in steps) / 60:.1f} min", f"{_pace(steps):,.0f} tokens/s"),
    ]
    return Page(
        title=f"amaru {facts['kind']}",
        subtitle=f"{directory.name}, {facts['started']}",
        sections=[
            Section("In short", [Cards(cards)]),
            Section("Learning", [curves_of({"training": steps}, "loss of each step, averaged over neighbours, and on validation rows")]),
            provenance(facts, read_record(directory / "steps.json")),
        ],
        footer=f"amaru {facts['amaru']}",
    )


def curves_of(runs: Mapping[str, Sequence[Mapping[str, Any]]], caption: str) -> Drawing:
    """Loss against tokens seen; the validation losses of a run are a line of their own."""
    series: dict[str, Curve] = {}
    for name, steps in runs.items():
        series[name] = thinned(against_tokens(steps, lambda step: step["loss"]))
        checked = against_tokens(steps, lambda step: step["validation"].get("loss"))
        if len(runs) == 1 and checked:
            series["validation"] = checked
    return Drawing(loss_curves(series, x_label="tokens", y_label="loss, nats"), caption)


def validation_curves(runs: Mapping[str, Sequence[Mapping[str, Any]]], caption: str) -> Drawing:
    """Validation losses of several runs against tokens seen."""
    series = {name: against_tokens(steps, lambda step: step["validation"].get("loss")) for name, steps in runs.items()}
    return Drawing(
        loss_curves({name: curve for name, curve in series.items() if curve}, x_label="tokens", y_label="validation loss, nats"), caption
    )


def against_tokens(steps: Sequence[Mapping[str, Any]], value: Any) -> Curve:
    """(tokens seen so far, value) of every step that has the value."""
    seen, curve = 0, []
    for step in steps:
        seen += step["tokens"]
        if (found := value(step)) is not None:
            curve.append((float(seen), float(found)))
    return curve


def thinned(curve: Curve) -> Curve:
    """At most `POINTS` points, each the mean of its neighbours."""
    size = -(-len(curve) // POINTS)
    groups = [curve[first : first + size] for first in range(0, len(curve), size or 1)]
    return [(group[-1][0], sum(y for _, y in group) / len(group)) for group in groups]


def provenance(facts: Mapping[str, Any], steps: Mapping[str, Any]) -> Section:
    """What exactly ran, on what, and how long each step took."""
    flat = {name: str(value) for name, value in facts.items() if name != "recipe"} | _flat(facts["recipe"])
    seconds = {f"time of {name}": f"{step['seconds']:.1f} s" for name, step in steps.items() if step["seconds"] >= 0.1}
    return Section("What exactly was run", [Facts(flat | seconds)])


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The steps of a training folder, as they were logged."""
    return read_lines(folder / "metrics.jsonl")


def _pace(steps: Sequence[Mapping[str, Any]]) -> float:
    return sum(step["tokens"] for step in steps) / max(1e-9, sum(step["seconds"] for step in steps))


def _flat(recipe: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    rows: dict[str, str] = {}
    for name, value in recipe.items():
        if isinstance(value, dict) and value:
            rows |= _flat(value, f"{prefix}{name}.")
        elif value is not None:
            rows[prefix + name] = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return rows
