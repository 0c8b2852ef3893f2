"""The report of a reward model's training: what it tells of answers that were held out, and how it learned."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from amaru.config.records import read_record
from amaru.report.figures import loss_curves
from amaru.report.numbers import count, decimals, percent
from amaru.report.page import Block, Card, Cards, Drawing, Page, Prose, Section, Table
from amaru.report.training import metrics, provenance, thinned


def reward_page(directory: Path) -> Page:
    """The page of `amaru reward train`."""
    facts, found = read_record(directory / "run.json"), read_record(directory / "comparison.json")
    steps = metrics(directory / "model-training")
    before, after = found["quality"]["start"], found["quality"]["model"]
    unit = "pairs" if "pairs" in after else "labels"
    cards = [
        Card("loss on held-out answers", f"{after['loss']:.4f}", f"before {before['loss']:.4f}"),
        *([Card("ranked right", percent(after["right"] / after["pairs"]), f"of {after['pairs']:,} pairs")] if unit == "pairs" else []),
        Card(f"{unit} learned", count(sum(step["tokens"] for step in steps)), f"in {len(steps):,} steps"),
    ]
    return Page(
        title="amaru reward train",
        subtitle=f"{facts['recipe']['start']}, {facts['started']}",
        sections=[
            Section("In short", [Cards(cards), *_figures(found)]),
            Section("Learning", [_curves(steps, unit)]),
            Section("Data", [Prose(found["data"]), Prose(found["labels"]), *(Prose(f"{k}: {v}") for k, v in found["rows"].items())]),
            provenance(facts, read_record(directory / "steps.json")),
        ],
        footer=f"amaru {facts['amaru']}",
    )


def _figures(found: Mapping[str, Any]) -> list[Block]:
    after, weights = found["quality"]["model"], found["attributes"]["weights"]
    if "pairs" in after:
        return []
    headers = ["attribute", "weight", "labels", "squared error", "of the mean", "correlation"]
    rows = [
        [name, weights.get(name, 0.0), row["labels"], row["error"], row["error_of_mean"], row["correlation"]]
        for name, row in zip(found["attributes"]["names"], after["attributes"], strict=True)
    ]
    formats = {header: decimals(3) for header in headers[3:]}
    caption = "Mean squared error on held-out answers, beside that of saying the mean label always, and the correlation with labels."
    worse = ", ".join(found["worse_than_mean"])
    note = [Prose(f"Further from held-out labels than their mean is: {worse}. Fewer epochs, a lower rate or more data.")] if worse else []
    return [Table(headers, rows, formats=formats, caption=caption), *note]


def _curves(steps: list[dict[str, Any]], unit: str) -> Drawing:
    seen, training, validation = 0, [], []
    for step in steps:
        seen += step["tokens"]
        training.append((float(seen), step["loss"]))
        if "loss" in step["validation"]:
            validation.append((float(seen), step["validation"]["loss"]))
    series = {"training": thinned(training), "validation": validation}
    kind = "nats a pair" if unit == "pairs" else "squared error"
    return Drawing(
        loss_curves({name: curve for name, curve in series.items() if curve}, x_label=f"{unit} seen", y_label=f"loss, {kind}"),
        "Loss of each step, averaged over neighbours, and on held-out answers.",
    )
