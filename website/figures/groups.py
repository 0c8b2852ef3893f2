"""Heads in groups that share B and C: which stay, and which move would pair a head with the wrong B and C."""

from matplotlib.patches import FancyArrowPatch, Rectangle

from amaru.report.svg import INK, Canvas, canvas

KEPT = ((0, 2, 3), (5, 6, 7), (8, 9, 10), (12, 14, 15))  # 3 of the 4 heads of each of 4 groups
COLOURS = ("series-1", "series-2", "series-3", "series-4")
HEADS = 4


def draw() -> str:
    with canvas(2.5) as c:
        for group, colour in enumerate(COLOURS):
            for head in range(group * HEADS, (group + 1) * HEADS):
                _head(c, head, 2.1, colour, head in KEPT[group])
            _shared(c, group, 1.55, group * HEADS, HEADS, colour)
            for place, head in enumerate(KEPT[group]):
                _head(c, group * len(KEPT[group]) + place, 0.4, colour, True, str(head))
            _shared(c, group, -0.15, group * len(KEPT[group]), len(KEPT[group]), colour)
        for row, text in ((2.4, "16 heads\nof the parent"), (0.7, "12 heads\nof the student")):
            c.axes.text(-0.5, row, text, ha="right", va="center")
        _move(c, 0.5, 3.5, 2.75, "soft", "within a group:\nnothing changes")
        _move(c, 6.5, 9.5, 2.75, "attention", "into another group:\nthe wrong B and C")
        c.axes.set(xlim=(-3.4, 16.2), ylim=(-0.6, 3.9))
        c.axes.set_axis_off()
    return c.text


def _head(c: Canvas, place: float, low: float, colour: str, kept: bool, label: str | None = None) -> None:
    box = Rectangle((place + 0.08, low), 0.84, 0.6, facecolor=INK[colour], linewidth=0)
    if not kept:
        box.set(facecolor="none", edgecolor=INK[colour], linewidth=1, linestyle=(0, (2, 2)))
    c.axes.add_patch(box)
    c.axes.text(place + 0.5, low + 0.29, label or str(place), ha="center", va="center", color=INK["paper" if kept else "soft"], size=8)


def _shared(c: Canvas, group: int, low: float, start: float, heads: int, colour: str) -> None:
    c.axes.plot([start + 0.12, start + heads - 0.12], [low + 0.38] * 2, color=INK[colour], linewidth=1.4)
    c.axes.text(start + heads / 2, low, f"B, C of group {group}", ha="center", va="bottom", size=8)


def _move(c: Canvas, start: float, end: float, height: float, colour: str, label: str) -> None:
    arc = {"connectionstyle": "arc3,rad=-0.35", "arrowstyle": "-|>", "mutation_scale": 9}
    c.axes.add_patch(FancyArrowPatch((start, height), (end, height), color=INK[colour], linewidth=1.1, **arc))
    c.axes.text((start + end) / 2, height + 0.95, label, ha="center", va="center", size=8, color=INK[colour])
