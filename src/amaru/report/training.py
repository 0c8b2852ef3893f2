"""The report of a training run, and the sections that other reports borrow: curves and what exactly was run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from amaru.config.records import read_lines, read_record
from amaru.report.figures import loss_curves
from amaru.report.fp8_scales import scale_sections
from amaru.report.numbers import count, decimals, duration, percent
from amaru.report.page import Block, Card, Cards, Drawing, Facts, Page, Prose, Section, Table

POINTS = 250  # of a curve; more cannot be told apart
EVENTS, NAMED = 50, 5  # rows of a table, and documents in one of them
Curve = list[tuple[float, float]]


def training_page(directory: Path) -> Page:
    """The page of `amaru train`."""
    facts, evaluation = read_record(directory / "run.json"), read_record(directory / "quality-model.json")
    steps, drawn = metrics(directory / "model-training"), read_record(directory / "model-training" / "drawn.json")
    use = [step["mfu"] for step in steps if step["mfu"] is not None]
    cards = [
        Card("validation loss", f"{evaluation['loss']:.4f}", "nats a token, all validation rows"),
        Card("next-token accuracy", percent(evaluation["accuracy"])),
        Card("tokens", count(sum(step["tokens"] for step in steps)), f"in {len(steps):,} steps"),
        Card("time", duration(sum(step["seconds"] for step in steps)), f"{_pace(steps):,.0f} tokens/s"),
        *([Card("use of the machine", percent(median(use)), "model FLOPs, of what matmul reaches; median of the steps")] if use else []),
    ]
    return Page(
        title=f"amaru {facts['kind']}",
        subtitle=f"{directory.name}, {facts['started']}",
        sections=[
            Section("In short", [Cards(cards)]),
            Section(
                "Learning",
                [
                    curves_of({"training": steps}, "Loss of each step, averaged over neighbours, and on validation rows."),
                    _curve(steps, "lr", "learning rate", "The learning rate of each step."),
                    _curve(steps, "grad_norm", "gradient norm", "Norm of the gradient before it is clipped, averaged over neighbours."),
                ],
            ),
            *_events(steps),
            _data(steps, drawn),
            *scale_sections(directory / "model-training"),
            Section("Pace", [_curve(steps, "tokens_per_second", "tokens/s", "Targets a second, averaged over neighbours.")]),
            provenance(facts, read_record(directory / "steps.json")),
        ],
        footer=f"amaru {facts['amaru']}",
    )


def _curve(steps: Sequence[Mapping[str, Any]], name: str, label: str, caption: str) -> Drawing:
    return Drawing(loss_curves({label: thinned(against_tokens(steps, lambda step: step[name]))}, x_label="tokens", y_label=label), caption)


def _events(steps: Sequence[Mapping[str, Any]]) -> list[Section]:
    """Loss spikes and numbers that were not finite, with the documents that the batch held; no section without one."""
    found = [step for step in steps if step["event"]]
    rows = [[step["step"], step["event"], "skipped" if step["skipped"] else "learned from", step["loss"], _some(step)] for step in found]
    table = Table(["step", "what", "what was done", "loss", "documents"], rows[:EVENTS], formats={"loss": decimals(3)})
    more = [Prose(f"And {len(rows) - EVENTS} more; metrics.jsonl has them all.")] if len(rows) > EVENTS else []
    return [Section("Steps set aside", [table, *more])] if found else []


def _some(step: Mapping[str, Any]) -> str:
    names = step["documents"]
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def _data(steps: Sequence[Mapping[str, Any]], drawn: Mapping[str, Any]) -> Section:
    """What each source gave, exactly, and in which phases."""
    whole = sum(source["tokens"] for source in drawn["total"])
    rows = [[each["source"], each["tokens"], each["tokens"] / whole, each["rows"], each["epochs"]] for each in drawn["total"]]
    formats = {"share": percent, "times the whole": decimals(3)}
    blocks: list[Block] = [Table(["source", "tokens", "share", "rows", "times the whole"], rows, formats=formats)]
    if len(drawn["total"]) > 1:
        series = {each["source"]: [(point["step"], point["tokens"][each["source"]]) for point in drawn["drawn"]] for each in drawn["total"]}
        blocks.append(Drawing(loss_curves(series, x_label="step", y_label="tokens drawn"), "Tokens drawn from each source so far."))
        phases = [
            [each["name"], each["first"] + 1, each["end"] or len(steps), each["row_length"], each["batch_rows"], _mixture(each["weights"])]
            for each in drawn["phases"]
        ]
        blocks.append(Table(["phase", "from step", "to step", "tokens a row", "rows a step", "shares of tokens"], phases))
    return Section("Data", blocks)


def _mixture(weights: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {percent(weight)}" for name, weight in weights.items())


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
