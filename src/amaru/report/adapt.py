"""The report of an adapter: what it reaches, what it learned, and examples with the learned words marked."""

from pathlib import Path
from typing import Any

from amaru.config.records import read_record
from amaru.report.numbers import count, decimals, percent, size
from amaru.report.page import Block, Card, Cards, Page, Preformatted, Prose, Section, Table
from amaru.report.training import curves_of, metrics, provenance


def adapt_page(directory: Path) -> Page:
    """The page of `amaru adapt`."""
    facts, found = read_record(directory / "run.json"), read_record(directory / "comparison.json")
    steps = metrics(directory / f"{Path(found['result']).name}-training")
    shown = read_record(directory / "data-examples.json")
    return Page(
        title=f"amaru adapt: {found['method']}",
        subtitle=f"{facts['recipe']['start']}, {facts['started']}",
        sections=[
            Section("In short", [Cards(_cards(found)), _answers(found)]),
            *([Section("What is reached", [_coverage(found)])] if found["coverage"] else []),
            *([Section("What it costs", [_cost(found["cost"])])] if "cost" in found else []),
            Section("Learning", [curves_of({"training": steps}, "Loss of each step, averaged over neighbours, and on answers held out.")]),
            Section("Examples", _examples(shown)),
            provenance(facts, read_record(directory / "steps.json")),
        ],
        footer=f"amaru {facts['amaru']}",
    )


def _cards(found: dict[str, Any]) -> list[Card]:
    after = found["after"]
    return [
        Card("loss", f"{after['loss']:.4f}", f"{found['before']['loss']:.4f} before"),
        Card("answers word for word", percent(after["exact"]), f"{percent(found['before']['exact'])} before"),
        Card("numbers trained", count(found["trained"]), f"{percent(found['trained'] / found['parameters'])} of the model's"),
        Card("pace", f"{found['tokens_per_second']:,.0f}", "learned tokens a second"),
    ]


def _answers(found: dict[str, Any]) -> Table:
    rows = [[name, *(found[name][each] for each in ("loss", "accuracy", "exact"))] for name in ("before", "after")]
    formats = {"loss": decimals(4), "token accuracy": percent, "word for word": percent}
    return Table(["", *formats], rows, formats=formats, marked=1, caption=f"Answers to {found['after']['count']:,} held-out conversations.")


def _cost(found: dict[str, dict[str, float]]) -> Table:
    rows = [[name, each["bytes"], each["tokens_per_second"]] for name, each in found.items()]
    caption = "The most that a few steps took beside the model itself, and their pace, each in a process of its own."
    return Table(["", "memory", "tokens/s"], rows, formats={"memory": size, "tokens/s": count}, caption=caption)


def _coverage(found: dict[str, Any]) -> Table:
    names = ("layers", "linears", "weights")
    rows = [
        [row["kind"], *("{:,} of {:,}".format(*row[each]) for each in names), row["weights"][0] / max(1, row["weights"][1])]
        for row in found["coverage"]
    ]
    return Table(["kind", "layers", "linear layers", "weights", "share"], rows, formats={"share": percent})


def _examples(shown: list[dict[str, Any]]) -> list[Block]:
    texts = [Preformatted(each["text"], f"{each['source']}: {each['learned']} of {each['tokens']} tokens are learned") for each in shown]
    return [Prose("What the model learns to say stands between ⟦ and ⟧."), *texts]
