"""Bars of equal length, each divided into shares: what became of the rows of every step."""

from collections.abc import Mapping, Sequence

from amaru.report.numbers import percent
from amaru.report.svg import INK, canvas

COLOURS = ("series-1", "mlp", "series-2", "faint", "series-4", "series-5")


def share_bars(bars: Mapping[str, Mapping[str, int]], parts: Sequence[str]) -> str:
    """`share_bars({"questions": {"went on": 95, "failed": 5}}, ["went on", "failed"])`: a bar for each name, from above."""
    with canvas(0.7 + 0.34 * len(bars)) as c:
        for part, colour in zip(parts, COLOURS, strict=False):
            c.axes.plot([], [], "s", color=INK[colour], markersize=7, label=part)
        for line, (name, numbers) in enumerate(bars.items()):
            total, begins = sum(numbers.values()), 0.0
            for part, colour in zip(parts, COLOURS, strict=False):
                if share := numbers.get(part, 0) / max(total, 1):
                    (bar,) = c.axes.barh(line, share, left=begins, height=0.62, color=INK[colour])
                    c.mark(bar, f"{name}: {numbers[part]:,} {part} ({percent(share)})")
                    begins += share
        c.axes.set_yticks(range(len(bars)), list(bars))
        c.axes.set(ylim=(len(bars) - 0.5, -0.5), xlim=(0, 1))
        c.axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 %"])
        c.axes.grid(visible=False, axis="y")
        c.legend(columns=len(parts))
    return c.text
