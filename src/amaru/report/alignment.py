"""The report of an alignment: what every model passes of the held-out prompts, and what became of each round's prompts."""

from pathlib import Path
from typing import Any

from amaru.config.records import read_lines, read_record
from amaru.report.numbers import percent
from amaru.report.page import Card, Cards, Page, Preformatted, Prose, Section, Table
from amaru.report.training import curves_of, metrics, provenance

SHOWN = 3  # comparisons of a round


def alignment_page(directory: Path) -> Page:
    """The page of `amaru align`."""
    facts, found = read_record(directory / "run.json"), read_record(directory / "comparison.json")
    rows, models = found["rows"], found["models"]
    rounds = [name for name in models if (directory / f"{name}-training").exists()]
    return Page(
        title="amaru align",
        subtitle=f"{facts['recipe']['start']}, {facts['started']}",
        sections=[
            Section("In short", _in_short(rows) if rows else [Prose("No prompts were held out, so nothing is measured.")]),
            *(_round(directory, name) for name in rounds),
            provenance(facts, read_record(directory / "steps.json")),
        ],
        footer=f"amaru {facts['amaru']}",
    )


def _in_short(rows: dict[str, Any]) -> list[Any]:
    first, last = next(iter(rows.values())), list(rows.values())[-1]
    strict = last["strict"]
    cards = [
        Card("held-out prompts passed", percent(strict["mean"]), f"{percent(strict['low'])} to {percent(strict['high'])}"),
        Card("before", percent(first["strict"]["mean"]), f"{next(iter(rows))}, of {strict['count']:,} prompts"),
        Card("tokens of an answer", f"{last['tokens']:.0f}", f"{percent(last['whole'])} ended by the model"),
    ]
    headers = ["model", "passed", "low", "high", "loosely", "single checks"]
    cells = [
        [name, *(row["strict"][key] for key in ("mean", "low", "high")), row["loose"]["mean"], row["checks"]] for name, row in rows.items()
    ]
    table = Table(headers, cells, formats=dict.fromkeys(headers[1:], percent), marked=len(cells) - 1, caption=CAPTION)
    kinds = sorted({kind for row in rows.values() for kind in row["kinds"]})
    by_kind = [[name, *(row["kinds"].get(kind) for kind in kinds)] for name, row in rows.items()]
    more = [Table(["model", *kinds], by_kind, formats=dict.fromkeys(kinds, percent), caption=BY_KIND)] if kinds else []
    return [Cards(cards), table, *more, *(_answer(each) for each in last["examples"])]


CAPTION = "Share of held-out prompts of which the greedy answer does all that is asked, with its 95 % interval; loosely as IFEval has it."
BY_KIND = "Share of single instructions that are followed, by their kind."


def _answer(each: dict[str, Any]) -> Preformatted:
    return Preformatted(f"{each['prompt']}\n\n{each['answer']}", "passes" if each["passes"] else "does not pass")


def _round(directory: Path, name: str) -> Section:
    steps = metrics(directory / f"{name}-training")
    curve = curves_of({name: steps}, "Loss of each step, averaged over neighbours, and on held-out comparisons or answers.")
    tally = directory / f"{name}-tally.json"
    if not tally.exists():
        return Section(f"Round {name}", [Prose("A larger model told at every token of the model's own answers what it would say."), curve])
    comparisons = read_lines(directory / f"{name}-comparisons.jsonl")[:SHOWN]
    return Section(f"Round {name}", [Prose(read_record(tally)["sentence"]), curve, *(_comparison(each) for each in comparisons)])


def _comparison(each: dict[str, Any]) -> Preformatted:
    answers = [f"{answer['score']:+.3g}  {answer['content']}" for answer in each["responses"]]
    return Preformatted("\n\n".join([each["messages"][-1]["content"], *answers]), "a comparison, with rewards")
