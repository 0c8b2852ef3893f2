"""The report of tasks: what a model reached, with intervals, beside another, and where in long contexts it finds things."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from amaru.config.records import read_record
from amaru.report.claim import curve
from amaru.report.heat import heat_map
from amaru.report.numbers import NONE, decimals, percent
from amaru.report.page import Card, Cards, Drawing, Page, Prose, Section, Table
from amaru.report.training import provenance

Facts = Mapping[str, Any]


def evaluation_run_page(directory: Path) -> Page:
    """The page of a run directory of `amaru eval --out`."""
    record = read_record(directory / "run.json")
    page = page_of(read_record(directory / "evaluation.json"))
    return replace(page, sections=[*page.sections, provenance(record, {})], footer=f"amaru {record['amaru']}")


def page_of(facts: Facts) -> Page:
    """The page of whatever `amaru eval` found."""
    return suite_page(facts) if "suite" in facts else evaluation_page(facts) if "tasks" in facts else text_page(facts)


def text_page(facts: Facts) -> Page:
    """The page of `amaru eval --data`: loss, and beside a teacher how near both are at each place."""
    cards = [
        Card("loss", f"{facts['loss']:.4f}", "nats a token"),
        Card("perplexity", f"{facts['perplexity']:.2f}"),
        Card("next-token accuracy", percent(facts["next_token_accuracy"]), f"{facts['tokens']:,} tokens"),
        *([Card("bits per byte", f"{facts['bits_per_byte']:.4f}")] if facts["bits_per_byte"] is not None else []),
    ]
    sections = [Section("In short", [Cards(cards), Prose(f"{facts['text']}; rows of {facts['row_length']:,} tokens.")])]
    if "by_position" in facts:
        sections.append(Section("Beside the teacher, by place", [Drawing(_agreement(facts["by_position"]), AGREEMENT), _places(facts)]))
    return Page(title="amaru eval", subtitle=facts["checkpoint"], sections=sections)


AGREEMENT = "Share of tokens for which both have the same highest logit, and of the teacher's likeliest five that are among the model's."


def _agreement(rows: list[Facts]) -> str:
    named = {"same choice": "top1", "same five": "top5"}
    lines = {name: [[max(row["last"], 1), row[key]] for row in rows] for name, key in named.items()}
    return curve({"lines": lines, "x": "place in the row, up to", "y": "share"})


def _places(facts: Facts) -> Table:
    rows = [[f"{row['first']:,} to {row['last']:,}", row["tokens"], row["kl"], row["top1"], row["top5"]] for row in facts["by_position"]]
    formats = {"KL": decimals(4), "same choice": percent, "same five": percent}
    return Table(["places", "tokens", *formats], rows, formats=formats, caption=f"The teacher is {facts['teacher']}; KL in nats a token.")


def suite_page(facts: Facts) -> Page:
    """The page of `amaru eval --suite`: the paper's tables with this model's column."""
    notes = [Prose(f"{row['name']}: {row['note']}.") for row in facts["rows"] if row["note"]]
    missing = [Section("Not measured", [Prose(each) for each in facts["missing"]])] if facts["missing"] else []
    told = [Section("Beside the published figures", [suite_table(facts), *notes]), *missing]
    return Page(title=f"amaru eval, suite {facts['suite']}", subtitle=f"{facts['checkpoint']}, files of {facts['files']}", sections=told)


def suite_table(facts: Facts) -> Table:
    """A row for each task; published figures as they are printed, in per cent but for ratings."""
    rows = []
    for row in facts["rows"]:
        found = row["metrics"][row["metric"]]
        printed = [f"{row['published'][model]:g}" if model in row["published"] else NONE for model in facts["models"]]
        here = (written(row["metric"], found["mean"]), interval(row["metric"], found))
        rows.append([row["name"], row["shots"], row["metric"], row["items"], *here, *printed])
    return Table(["task", "shots", "metric", "items", "here", "95 % interval", *facts["models"]], rows, caption=CAPTION)


def evaluation_page(facts: Facts) -> Page:
    """The page of what `amaru eval --tasks` found."""
    grids = [_grid(row) if _is_grid(row) else _parts(row) for row in facts["tasks"] if "cells" in row]
    duels = [Prose(side_by_side(row)) for row in facts["tasks"] if "duel" in row]
    return Page(
        title="amaru eval",
        subtitle=f"{facts['checkpoint']}" + (f" against {facts['against']}" if "against" in facts else ""),
        sections=[Section("Tasks", [table(facts), *duels]), *grids],
    )


def table(facts: Facts) -> Table:
    """A row for each metric of each task."""
    compared = "against" in facts
    more = ["the other", "difference", "its interval", "p", "test"] if compared else []
    headers = ["task", "metric", "items", "score", "95 % interval", *more]
    rows = [_row(row, metric, compared) for row in facts["tasks"] for metric in row["metrics"]]
    return Table(headers, rows, caption=CAPTION_BOTH if compared else CAPTION)


CAPTION = "Shares have Wilson's interval, other scores that of their standard error."
CAPTION_BOTH = f"{CAPTION} Differences are this model's score less the other's on the same items, with an interval by paired bootstrap."


def _row(row: Facts, metric: str, compared: bool) -> list[Any]:
    found = row["metrics"][metric]
    cells = [row["task"], metric, row["items"], written(metric, found["mean"]), interval(metric, found)]
    if not compared:
        return cells
    other, difference = row["against"]["metrics"][metric], row["difference"].get(metric)
    if difference is None:  # perplexity follows from nats, which has its row
        return [*cells, written(metric, other["mean"]), NONE, NONE, NONE, NONE]
    told = [written(metric, difference["mean"]), interval(metric, difference), f"{difference['p']:.2g}", difference["test"]]
    return [*cells, written(metric, other["mean"]), *told]


def written(metric: str, value: float) -> str:
    """Shares as per cent; nats, perplexities and ratings as they are."""
    return f"{value:,.3f}" if metric in ("nats", "perplexity") else f"{value:.2f}" if metric.startswith("score") else percent(value)


def interval(metric: str, found: Facts) -> str:
    return f"{written(metric, found['low'])} to {written(metric, found['high'])}" if found["low"] == found["low"] else NONE


def side_by_side(row: Facts) -> str:
    """Of two models that a judge compared."""
    found = row["duel"]
    won = found["won"]
    counts = f"{found['win']} won, {found['tie']} tied ({found['turned']} by the order alone), {found['loss']} lost"
    bounds = f"{percent(won['low'])} to {percent(won['high'])}" if won["low"] == won["low"] else NONE
    return f"{row['task']} side by side: {counts}; {percent(won['mean'])} ({bounds}); p {found['p']:.2g}, exact sign test"


def place(cell: str) -> str:
    """`place("4096 0.50") == "4096 at 0.50"`; categories are as they are."""
    length, _, depth = cell.partition(" ")
    return f"{length} at {depth}" if length.isdigit() and depth else cell


def _is_grid(row: Facts) -> bool:
    """Whether cells are lengths and depths, and not categories."""
    return all(name.partition(" ")[0].isdigit() for name in row["cells"])


def _parts(row: Facts) -> Section:
    """A row for each category."""
    rows = [[name, cell["count"], written(row["leads"], cell["mean"]), interval(row["leads"], cell)] for name, cell in row["cells"].items()]
    return Section(row["task"], [Table(["category", "items", row["leads"], "95 % interval"], rows)])


def _grid(row: Facts) -> Section:
    """Cells are named "LENGTH DEPTH", or "LENGTH" where depth means nothing."""
    placed = {(int(length), depth): cell["mean"] for name, cell in row["cells"].items() for length, _, depth in [name.partition(" ")]}
    ordered = sorted(placed, key=lambda place: (float(place[1] or 0), place[0]))
    drawing = heat_map({(f"{length:,}", depth or "all"): placed[length, depth] for length, depth in ordered}, "tokens", "depth")
    return Section(row["task"], [Drawing(drawing, "Per cent found, by length and by depth (0 is the beginning of the text).")])
