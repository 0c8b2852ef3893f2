"""The report of `amaru reproduce tied-lora`: verdicts, and score against the numbers that are trained, by the verdict's record."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from statistics import mean
from typing import Any

from matplotlib.ticker import FuncFormatter

from amaru.config.records import read_record
from amaru.report.numbers import count, decimals, percent
from amaru.report.page import Card, Cards, Drawing, Page, Prose, Section, Table
from amaru.report.svg import INK, SERIES, canvas
from amaru.report.training import provenance

LINES = ("LoRA", "TL6")  # methods at several ranks; the others are points


def tied_lora_page(directory: Path) -> Page:
    """The page of `amaru reproduce tied-lora`."""
    facts, found = read_record(directory / "run.json"), read_record(directory / "verdict.json")
    tasks = facts["recipe"]["tasks"]
    missing = [Prose(f"Not there yet: {', '.join(found['missing'])}. The same command goes on with them.")] if found["missing"] else []
    cards = [Card(claim["claim"], claim["verdict"], "" if claim["gap"] is None else f"{claim['gap']:+.1%}") for claim in found["claims"]]
    sections = [Section("In short", [Cards(cards), Prose(found["sentence"]), *missing])]
    for base in ("transformer", "hybrid"):
        first = next(iter(tasks))
        caption = f"{first}: {tasks[first]['score']} against numbers trained; means over seeds. Lines go through ranks."
        sections.append(Section(f"The {base}", [Drawing(score_curves(found, base, first), caption), scores_table(found, base)]))
    return Page(
        title="Tied-LoRA beside LoRA",
        subtitle=f"{directory.name}, {facts['started']}",
        sections=[*sections, provenance(facts, read_record(directory / "steps.json"))],
        footer=f"amaru {facts['amaru']}",
    )


def means(found: Mapping[str, Any], base: str) -> dict[tuple[str, str, int], dict[str, Any]]:
    """By task, method and rank: the mean score over seeds, the lowest and the highest, how many seeds, and the numbers trained."""
    groups: dict[tuple[str, str, int], list[Mapping[str, Any]]] = {}
    for cell in found["cells"]:
        if cell["base"] == base:
            groups.setdefault((cell["task"], cell["method"], cell["rank"]), []).append(cell)
    return {key: _mean([each["score"] for each in some]) | {"trained": some[0]["trained"]} for key, some in groups.items()}


def _mean(scores: Sequence[float]) -> dict[str, Any]:
    return {"score": mean(scores), "low": min(scores), "high": max(scores), "seeds": len(scores)}


def score_curves(found: Mapping[str, Any], base: str, task: str) -> str:
    """Score against numbers trained on a log scale: LoRA and TL6 through their ranks, other methods as points, bars from seed to seed."""
    some = {key[1:]: value for key, value in means(found, base).items() if key[0] == task}
    with canvas(3.8) as c:
        for method, colour in zip(dict.fromkeys(method for method, _ in some), cycle(SERIES), strict=False):
            points = sorted((value["trained"], value, rank) for (each, rank), value in some.items() if each == method)
            x, y = [trained for trained, _, _ in points], [value["score"] for _, value, _ in points]
            style = "-" if method in LINES else ":"
            (line,) = c.axes.plot(x, y, color=INK[colour], linestyle=style, marker="o", markersize=4, label=method)
            c.mark(line, f"{method}: " + ", ".join(f"{score:.4g} at rank {rank}" for score, (_, _, rank) in zip(y, points, strict=True)))
            for trained, value, _ in points:
                c.axes.plot([trained] * 2, [value["low"], value["high"]], color=INK[colour], linewidth=0.8)
        if task in found["before"].get(base, {}):
            c.axes.axhline(found["before"][base][task], color=INK["soft"], linewidth=0.8, linestyle=(0, (4, 3)))
        c.axes.set_xscale("log")
        c.axes.set(xlabel="numbers trained", ylabel=f"score, {task}")
        c.axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        if some:
            c.legend(columns=4)
    return c.text


def scores_table(found: Mapping[str, Any], base: str) -> Table:
    """A row for each task, method and rank, beside LoRA of the same task and rank; gains are over the model without adapter."""
    rows: list[list[Any]] = []
    of = means(found, base)
    for task, start in found["before"].get(base, {}).items():
        rows.append([task, "no adapter", None, 0, None, start, None, None, None])
        some = {key[1:]: value for key, value in of.items() if key[0] == task}
        for (method, rank), value in sorted(some.items(), key=lambda each: (each[0][1], each[0][0] != "LoRA", -each[1]["score"])):
            beside: list[float | None] = [None, None, None]
            if method != "LoRA" and (lora := some.get(("LoRA", rank))):
                gain = (value["score"] - start) / (lora["score"] - start)
                beside = [value["trained"] / lora["trained"], value["score"] / lora["score"] - 1, gain]
            rows.append([task, method, rank, value["trained"], beside[0], value["score"], *beside[1:], value["seeds"]])
    formats = {"trained": count, "of LoRA's": percent, "score": decimals(4), "beside LoRA": signed, "of LoRA's gain": percent}
    headers = ["task", "method", "rank", *formats, "seeds"]
    return Table(headers, rows, formats=formats, caption="Means over seeds; LoRA is that of the same task and rank.")


def signed(share: float) -> str:
    """`signed(-0.012) == "-1.2 %"`"""
    return f"{100 * share:+.1f} %"
