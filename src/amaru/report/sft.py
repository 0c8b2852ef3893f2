"""The report of a fine-tuning: what each stage learned, what it forgot of the others, and examples with the learned words marked."""

from pathlib import Path

from amaru.config.records import read_record
from amaru.report.numbers import count, decimals, percent
from amaru.report.page import Card, Cards, Page, Preformatted, Prose, Section, Table
from amaru.report.training import curves_of, metrics, provenance


def sft_page(directory: Path) -> Page:
    """The page of `amaru sft`."""
    facts, found = read_record(directory / "run.json"), read_record(directory / "comparison.json")
    stages, rows = found["stages"], found["rows"]
    last = rows[stages[-1]["name"]]
    cards = [Card(f"loss, {name}", f"{values['loss']:.4f}", f"accuracy {percent(values['accuracy'])}") for name, values in last.items()]
    tokens = sum(step["tokens"] for stage in stages for step in metrics(directory / f"{stage['model']}-training"))
    cards.append(Card("learned tokens", count(tokens), f"in {len(stages)} stages"))
    names = [stage["name"] for stage in stages]
    headers = ["model", *(f"loss, {name}" for name in names), *(f"accuracy, {name}" for name in names)]
    cells = [[model, *(row[n]["loss"] for n in names), *(row[n]["accuracy"] for n in names)] for model, row in rows.items()]
    formats = {header: decimals(4) if header.startswith("loss") else percent for header in headers[1:]}
    return Page(
        title="amaru sft",
        subtitle=f"{facts['recipe']['start']}, {facts['started']}",
        sections=[
            Section("In short", [Cards(cards), Table(headers, cells, formats=formats, marked=len(cells) - 1, caption=CAPTION)]),
            *(_stage(directory, stage) for stage in stages),
            provenance(facts, read_record(directory / "steps.json")),
        ],
        footer=f"amaru {facts['amaru']}",
    )


CAPTION = "Loss and next-token accuracy on the answers of held-out conversations, in nats a token."


def _stage(directory: Path, stage: dict[str, str]) -> Section:
    steps = metrics(directory / f"{stage['model']}-training")
    examples = read_record(directory / f"{stage['name']}-examples.json")
    curves = curves_of({stage["name"]: steps}, "Loss of each step, averaged over neighbours, and on held-out conversations.")
    shown = [Preformatted(each["text"], f"{each['source']}: {each['learned']} of {each['tokens']} tokens are learned") for each in examples]
    return Section(f"Stage {stage['name']}", [Prose(stage["summary"]), curves, *shown])
