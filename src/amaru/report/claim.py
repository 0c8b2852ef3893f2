"""The report of a claim: its findings with their verdicts, curves and tables of the cells, all from the verdict's record."""

from collections.abc import Mapping
from itertools import cycle
from pathlib import Path
from typing import Any

from matplotlib.ticker import FuncFormatter

from amaru.config.records import read_record
from amaru.report.heat import heat_map
from amaru.report.page import Block, Card, Cards, Drawing, Page, Prose, Section, Table
from amaru.report.svg import INK, SERIES, canvas
from amaru.report.training import provenance


def claim_page(directory: Path) -> Page:
    """The page of any `amaru reproduce NAME` whose verdict lists findings, curves, maps and tables."""
    facts, found = read_record(directory / "run.json"), read_record(directory / "verdict.json")
    missing = [Prose(f"Not there yet: {', '.join(found['missing'])}. The same command goes on with them.")] if found["missing"] else []
    drawn = [
        *(Section(each["title"], [Drawing(curve(each), each.get("caption", ""))]) for each in found.get("curves", ()) if each["lines"]),
        *(Section(each["title"], [Drawing(_map(each), each["caption"])]) for each in found.get("maps", ())),
        *(Section(each["title"], [Table(each["headers"], each["rows"])]) for each in found.get("tables", ()) if each["rows"]),
    ]
    return Page(
        title=str(facts["kind"]).replace("-", " ", 1),
        subtitle=f"{directory.name}, {facts['started']}",
        sections=[
            Section("In short", [Prose(found["paper"]), Cards([Card("verdict", found["verdict"])]), *missing]),
            *(Section(each["claim"], _finding(each)) for each in found["claims"]),
            *drawn,
            provenance(facts, read_record(steps) if (steps := directory / "steps.json").exists() else {}),
        ],
        footer=f"amaru {facts['amaru']}",
    )


def _finding(found: Mapping[str, Any]) -> list[Block]:
    setting = [Prose(f"{found['setting']}.")] if found.get("setting") else []
    return [Prose(f"{found['verdict'].capitalize()}. {found['sentence']}"), *setting]


def curve(drawn: Mapping[str, Any]) -> str:
    """A line for each name in `lines`, points [x, y], x on a log scale; y too where `log` says so."""
    with canvas(3.4) as c:
        for (name, points), colour in zip(drawn["lines"].items(), cycle(SERIES), strict=False):
            x, y = zip(*points, strict=True)
            (line,) = c.axes.plot(x, y, color=INK[colour], marker="o", markersize=4, label=name)
            c.mark(line, f"{name}: " + ", ".join(f"{one:,.4g}: {other:.4g}" for one, other in points))
        if drawn.get("log_x", True):
            c.axes.set_xscale("log")
            c.axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
        c.axes.set_ylim(bottom=drawn.get("from"))
        c.axes.set(xlabel=drawn["x"], ylabel=drawn["y"])
        c.legend(columns=4)
    return c.text


def _map(drawn: Mapping[str, Any]) -> str:
    """`cells` are [column, row, share]."""
    return heat_map({(str(column), str(row)): share for column, row, share in drawn["cells"]}, drawn["x"], drawn["y"])
