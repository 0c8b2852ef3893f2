"""The report of `amaru reproduce compression`: a verdict per claim, and the records of all cells that they follow from."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from statistics import mean
from typing import Any

from matplotlib.ticker import FuncFormatter

from amaru.config.records import read_record
from amaru.report.numbers import count, decimals, percent
from amaru.report.page import Block, Card, Cards, Drawing, Page, Prose, Section, Table
from amaru.report.svg import INK, SERIES, canvas
from amaru.report.training import provenance

Records = Sequence[Mapping[str, Mapping[str, Any]]]
TITLES = {
    "heads": ("Heads within their groups", "heads-"),
    "axes": ("Which axes to cut", "axes-"),
    "scratch": ("Tokens from scratch", "scratch-"),
    "ranking": ("Rank before and after training", ""),
    "kept": ("Accuracy kept", ""),
    "puzzle": ("Blocks by an integer program", "puzzle-"),
    "uniform": ("Uniform layers or blocks of their own", ""),
    "states": ("Half of the state", "states"),
}


def compression_claims_page(directory: Path) -> Page:
    """The page of `amaru reproduce compression`, from its verdict."""
    facts, found = read_record(directory / "run.json"), read_record(directory / "verdict.json")
    missing = [Prose(f"Not there yet: {', '.join(found['missing'])}. The same command goes on with them.")] if found["missing"] else []
    cards = [Card(TITLES[claim["name"]][0], claim["verdict"]) for claim in found["claims"]]
    return Page(
        title="What is claimed of compression",
        subtitle=f"{directory.name}, {facts['started']}",
        sections=[
            Section("In short", [Cards(cards), *missing]),
            *(Section(TITLES[claim["name"]][0], _blocks(claim, found["records"])) for claim in found["claims"]),
            provenance(facts, {}),
        ],
        footer=f"amaru {facts['amaru']}",
    )


def _blocks(claim: Mapping[str, Any], records: Mapping[str, Records]) -> list[Block]:
    """What is claimed, the verdict, a figure where one tells more, and the cells."""
    blocks: list[Block] = [Prose(claim["claim"]), Prose(f"{claim['verdict'].capitalize()}. {claim['sentence']}")]
    name, prefix = claim["name"], TITLES[claim["name"]][1]
    if name in ("axes", "puzzle") and any(cell.startswith(prefix) for strand in records["small"] for cell in strand):
        caption = "Mean over the small parents; to the right is faster, lower is better. The parent is at 1."
        blocks.append(Drawing(loss_against_speed(records["small"], prefix), caption))
    if name == "scratch":
        blocks.append(Drawing(twins(records["small"]), "Losses of twins from scratch by tokens; dashed, their distilled student."))
    if prefix:
        blocks += [cells_table(some, prefix, f"{size} parents") for size, some in records.items() if any(some)]
    return blocks


def loss_against_speed(strands: Records, prefix: str) -> str:
    """Decode speed beside the parent's against loss after distillation, a point per variant."""
    names = dict.fromkeys(name for strand in strands for name in strand if name.startswith(prefix))
    with canvas(3.4) as c:
        for name, colour in zip(names, cycle(SERIES), strict=False):
            some = [strand[name] for strand in strands if "decode_alone" in strand.get(name, {})]
            if some:
                x, y = mean(each["decode_alone"] for each in some), mean(each["loss"] for each in some)
                (point,) = c.axes.plot([x], [y], "o", color=INK[colour], markersize=7, label=name.removeprefix(prefix))
                c.mark(point, f"{name}: loss {y:.3f}, {x:.2f} times as fast")
        c.axes.set(xlabel="decode speed beside the parent's", ylabel="loss")
        c.axes.margins(0.1, 0.15)
        if c.axes.get_lines():
            c.legend(columns=4)
    return c.text


def twins(strands: Records) -> str:
    """Loss against tokens on a log scale, a line per parent, its student dashed."""
    with canvas(3.4) as c:
        for number, (strand, colour) in enumerate(zip(strands, cycle(SERIES), strict=False)):
            runs = sorted((each["tokens"], each["loss"]) for name, each in strand.items() if name.startswith("scratch-"))
            best = {tokens: min(loss for other, loss in runs if other == tokens) for tokens, _ in runs}
            if best:
                (line,) = c.axes.plot([*best], [*best.values()], color=INK[colour], marker="o", markersize=4, label=f"parent {number}")
                c.mark(line, ", ".join(f"{tokens:,}: {loss:.3f}" for tokens, loss in best.items()))
            if best and "axes-every axis" in strand:
                c.axes.axhline(strand["axes-every axis"]["loss"], color=INK[colour], linewidth=1, linestyle=(0, (4, 3)))
        c.axes.set_xscale("log")
        c.axes.set(xlabel="tokens", ylabel="loss")
        c.axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        if c.axes.get_lines():
            c.legend(columns=4)
    return c.text


def cells_table(strands: Records, prefix: str, caption: str) -> Table:
    """A row per cell and parent; speeds are beside the parent's."""
    formats = {
        "parameters": count,
        "as cut": decimals(3),
        "loss": decimals(3),
        "parent": decimals(3),
        "accuracy": percent,
        "prefill": decimals(2),
        "decode": decimals(2),
        "decode, 32": decimals(2),
    }
    keys = ("parameters", "before", "loss", "parent_loss", "accuracy", "prefill_alone", "decode_alone", "decode_crowd")
    rows: list[list[Any]] = [
        [name, record["seed"], record["tokens"], *(record.get(key) for key in keys)]
        for name in dict.fromkeys(name for strand in strands for name in strand if name.startswith(prefix))
        for strand in strands
        if (record := strand.get(name))
    ]
    return Table(["student", "seed", "tokens", *formats], rows, formats=formats, caption=f"{caption}; losses in nats a token.")
