"""The report of `amaru reproduce fp8`: how far the losses of pairs are apart, by the verdict's record."""

from collections.abc import Mapping
from itertools import cycle
from pathlib import Path
from typing import Any

from matplotlib.ticker import FuncFormatter

from amaru.config.records import read_lines, read_record
from amaru.report.fp8_scales import scale_blocks
from amaru.report.numbers import decimals
from amaru.report.page import Block, Card, Cards, Drawing, Page, Prose, Section, Table
from amaru.report.svg import INK, SERIES, canvas
from amaru.report.training import provenance


def fp8_page(directory: Path) -> Page:
    """The page of `amaru reproduce fp8`, from its verdict and what its cells looked at."""
    facts, found = read_record(directory / "run.json"), read_record(directory / "verdict.json")
    looked = {
        f"{pair['size']}, seed {pair['seed']}": read_lines(path)
        for pair in found["pairs"]
        if (path := directory / f"{pair['size']}-seed{pair['seed']}-fp8-training" / "fp8.jsonl").exists()
    }
    return Page(
        title="FP8 beside BF16",
        subtitle=f"{directory.name}, {facts['started']}",
        sections=[
            Section("In short", [Cards(_cards(found)), Prose(found["sentence"]), *_missing(found)]),
            Section("The gap over training", [Drawing(gap_curves(found), _gap_caption(found)), pairs_table(found)]),
            *(Section(f"Scales and underflow: {name}", scale_blocks(looks)) for name, looks in looked.items()),
            provenance(facts, read_record(directory / "steps.json")),
        ],
        footer=f"amaru {facts['amaru']}",
    )


def gap_curves(found: Mapping[str, Any]) -> str:
    """Relative gaps of validation loss against tokens seen: a line a pair, controls dotted, the aim a pair of thin lines."""
    with canvas(3.6) as c:
        for pair, colour in zip(found["pairs"], cycle(SERIES), strict=False):
            name = f"{pair['parameters'] / 1e6:.1f} M, seed {pair['seed']}"
            for curve, style, told in ((pair["curve"], "-", name), (pair["control_curve"], ":", f"{name}, control")):
                if curve:
                    x, y = zip(*((tokens, 100 * gap) for tokens, gap in curve), strict=True)
                    width, label = (1.6, told) if style == "-" else (1.1, None)
                    (line,) = c.axes.plot(x, y, color=INK[colour], linestyle=style, linewidth=width, label=label)
                    c.mark(line, f"{told}: {y[-1]:+.3f} % at the end")
        for edge in (-100 * found["aim"], 100 * found["aim"]):
            c.axes.axhline(edge, color=INK["soft"], linewidth=0.8, linestyle=(0, (4, 3)))
        c.axes.grid(visible=False, axis="x")
        c.axes.margins(x=0.01)
        c.axes.set(xlabel="tokens", ylabel="validation loss beside BF16's, %")
        c.axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
        if found["pairs"]:
            c.legend(columns=4)
    return c.text


def _gap_caption(found: Mapping[str, Any]) -> str:
    return (
        "Whole lines: FP8 beside BF16 with the same seed. Dotted: BF16 beside BF16 whose first weights were rounded once, which is how far "
        f"apart two runs come by chance. Dashed: the aim, {found['aim']:.1%}."
    )


def pairs_table(found: Mapping[str, Any]) -> Table:
    """Every pair; losses in nats a token on all validation rows."""
    rows = [
        [
            f"{pair['parameters'] / 1e6:.1f} M",
            pair["seed"],
            pair["bf16"],
            pair["bf16_in_fp8"],
            pair["fp8"],
            pair["fp8_in_bf16"],
            pair["gap"],
            pair["control_gap"],
        ]
        for pair in found["pairs"]
    ]
    headers = ["model", "seed", "BF16", "BF16, run in FP8", "FP8", "FP8, run in BF16", "gap", "control's gap"]
    numbers = dict.fromkeys(headers[2:6], decimals(4)) | dict.fromkeys(headers[6:], signed_percent)
    return Table(headers, rows, formats=numbers, caption="Losses on all validation rows, each model in the arithmetic named.")


def signed_percent(value: float) -> str:
    """`signed_percent(0.00052) == "+0.052 %"`"""
    return f"{100 * value:+.3f} %"


def _cards(found: Mapping[str, Any]) -> list[Card]:
    small = [pair for pair in found["pairs"] if pair["size"] == "small"]
    cards = [Card("verdict", found["verdict"], f"the claim: within {found['aim']:.1%}")]
    if found["interval"]:
        low, high = found["interval"]
        cards.append(Card("gap of loss", signed_percent(found["gap"]), f"95 % interval {signed_percent(low)} to {signed_percent(high)}"))
    if small and all(pair["control_gap"] is not None for pair in small):
        widest = max(abs(pair["control_gap"]) for pair in small)
        cards.append(Card("gap by chance", f"{100 * widest:.3f} %", "the widest of the controls, which differ by rounding alone"))
    return cards


def _missing(found: Mapping[str, Any]) -> list[Block]:
    return [Prose(f"Not there yet: {', '.join(found['missing'])}. The same command goes on with them.")] if found["missing"] else []
