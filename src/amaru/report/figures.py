"""The drawings of a report: functions from plain data to one inline SVG each.

svg = loss_curves({"student": [(0, 4.1), (50, 2.9)]}, x_label="step", y_label="loss")
"""

from collections.abc import Mapping, Sequence
from itertools import cycle
from math import isfinite
from typing import NamedTuple

from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator

from amaru.report.numbers import plain, size, size_unit
from amaru.report.svg import INK, SERIES, Canvas, canvas

KINDS = {"mamba2": "Mamba-2", "attention": "attention", "mlp": "MLP", "hybrid_head": "hybrid head", "moe": "experts"}
STATES = {"ranked": ("mlp", 4.5), "distilled": ("series-1", 6), "winner": ("series-2", 9)}  # colour, and diameter in points


class Candidate(NamedTuple):
    """One point of `frontier`: bytes of memory (in `against` something else) and loss.

    Its state says how far it came: ranked, distilled (for a short while), or winner.
    """

    x: float
    loss: float
    label: str
    state: str


class Layer(NamedTuple):
    """One layer of `stack`: its kind, its width in any unit common to the kind, and what a tooltip says about it."""

    kind: str
    width: float
    label: str


def loss_curves(series: Mapping[str, Sequence[tuple[float, float]]], x_label: str, y_label: str) -> str:
    """One line per name, through its (x, y) points in their order."""
    with canvas(3.3) as c:
        styles = ((colour, dash) for dash in cycle(("-", "--", ":")) for colour in SERIES)
        for (name, points), (colour, dash) in zip(series.items(), styles, strict=False):
            marker = "o" if len(points) == 1 else ""
            (line,) = c.axes.plot(*zip(*points, strict=True), color=INK[colour], linestyle=dash, marker=marker, markersize=4, label=name)
            c.mark(line, f"{name}: {plain(float(points[-1][1]))} at {x_label} {plain(points[-1][0])}")
        c.axes.grid(visible=False, axis="x")
        c.axes.margins(x=0.01)
        c.axes.set(xlabel=x_label, ylabel=y_label)
        c.axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
        c.legend(columns=min(len(series), 4))
    return c.text


def layer_importance(rows: Sequence[tuple[int, str, float]], y_label: str = "importance") -> str:
    """A bar per (layer index, kind, score) in stack order, coloured by kind; on a log scale, since the ends outweigh the middle by far.

    A score without end (a layer that cannot go alone) is a bar to the top.
    """
    highest = max((score for _, _, score in rows if isfinite(score)), default=1.0)
    with canvas(2.7) as c:
        for index, kind, score in rows:
            (bar,) = c.axes.bar(index, score if isfinite(score) else 2 * highest, width=0.78, color=INK[kind])
            c.mark(bar, f"layer {index}, {KINDS[kind]}: " + (f"{score:.4g}" if isfinite(score) else "cannot go alone"))
        _kind_legend(c, [kind for _, kind, _ in rows])
        c.axes.grid(visible=False, axis="x")
        c.axes.margins(x=0.01)
        c.axes.set(xlabel="layer", ylabel=y_label, yscale="log")
        c.axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return c.text


def frontier(
    candidates: Sequence[Candidate | tuple[float, float, str, str]], budget_bytes: float | None = None, y_label: str = "zero-shot loss"
) -> str:
    """Memory against loss; the line joins the candidates that no other beats in both, and the winner is named.

    All losses must be measured in the same way, or the frontier compares what cannot be compared.
    """
    points = [Candidate(*candidate) for candidate in candidates]
    unit, unit_name = size_unit(max(point.x for point in points))
    scaled = [point._replace(x=point.x / unit) for point in points]
    budget = None if budget_bytes is None else (budget_bytes / unit, f"budget {size(budget_bytes)}")
    return _scatter(scaled, budget, f"memory, {unit_name}", y_label)


def against(candidates: Sequence[Candidate], x_label: str, y_label: str, budget: tuple[float, str] | None = None) -> str:
    """`frontier` along something else of which less is better, such as the time of a step; `budget` is a place and its name."""
    return _scatter(candidates, budget, x_label, y_label)


def _scatter(points: Sequence[Candidate], budget: tuple[float, str] | None, x_label: str, y_label: str) -> str:
    places = {state: [(point.x, point.loss) for point in points if point.state == state] for state in STATES}
    with canvas(3.6) as c:
        best = pareto([place for some in places.values() for place in some])
        c.axes.step(*zip(*best, strict=True), where="post", color=INK["soft"], linewidth=1, label="frontier", zorder=1)
        for state, (colour, diameter) in STATES.items():
            if places[state]:
                x, y = zip(*places[state], strict=True)
                c.axes.plot(x, y, "o", color=INK[colour], markersize=diameter, markeredgewidth=0, label=state, zorder=3)
        c.axes.margins(0.06, 0.12)
        for point in points:
            if point.state == "winner":
                _name(c, point.label, point.x, point.loss)
        if budget is not None:
            c.axes.axvline(budget[0], color=INK["soft"], linewidth=1, linestyle=(0, (2, 3)), label=budget[1])
        c.axes.set(xlabel=x_label, ylabel=y_label)
        c.legend(columns=5)
    return c.text


def pareto(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other point is at most as large and at least as low in loss as, by growing memory."""
    kept: list[tuple[float, float]] = []
    for memory, loss in sorted(points):
        if not kept or loss < kept[-1][1]:
            kept.append((memory, loss))
    return kept


def stack(parent: Sequence[Layer | tuple[str, float, str]], student: Sequence[Layer | tuple[str, float, str] | None]) -> str:
    """Two models as rows of layers, first layer at the left; None is a layer of the parent that the student dropped.

    A bar's height is its width relative to the widest layer of its kind in the parent.
    """
    assert len(parent) == len(student), "the student has one entry per layer of the parent"
    rows = {"parent": [Layer(*layer) for layer in parent], "student": [None if layer is None else Layer(*layer) for layer in student]}
    widest = {kind: max(layer.width for layer in rows["parent"] if layer and layer.kind == kind) for kind in {layer[0] for layer in parent}}
    with canvas(2.1) as c:
        for base, (name, layers) in zip((1.45, 0.0), rows.items(), strict=True):
            for index, layer in enumerate(layers):
                _draw_layer(c, index, base, layer, 0.0 if layer is None else layer.width / widest[layer.kind])
            depth = sum(layer is not None for layer in layers)
            c.axes.text(-1.0, base + 0.5, f"{name}\n{depth} layers", ha="right", va="center")
        c.axes.set(xlim=(-0.8, len(parent)), ylim=(-0.35, 2.5))
        c.axes.set_axis_off()
        _kind_legend(c, [layer[0] for layer in parent])
    return c.text


def _draw_layer(c: Canvas, index: int, base: float, layer: Layer | None, share: float) -> None:
    if layer is None:
        (gap,) = c.axes.plot([index + 0.1, index + 0.9], [base + 0.5] * 2, color=INK["soft"], linewidth=1, linestyle=(0, (1.5, 2)))
        c.mark(gap, f"layer {index}: dropped")
        return
    low = base + (1 - share) / 2
    bar = c.axes.add_patch(Rectangle((index + 0.1, low), 0.8, share, facecolor=INK[layer.kind], linewidth=0))
    c.mark(bar, f"layer {index}: {layer.label}")


def _kind_legend(c: Canvas, kinds: Sequence[str]) -> None:
    present = [kind for kind in KINDS if kind in kinds]
    handles = [Rectangle((0, 0), 1, 1, facecolor=INK[kind], linewidth=0, label=KINDS[kind]) for kind in present]
    c.legend(columns=len(present), handles=handles, handlelength=0.9)


def _name(c: Canvas, label: str, x: float, y: float) -> None:
    """Write a label beside a point, on the side where there is room."""
    left, right = c.axes.get_xlim()
    side = -1 if x > (left + right) / 2 else 1
    align = {-1: "right", 1: "left"}[side]
    c.axes.annotate(label, (x, y), xytext=(9 * side, -9), textcoords="offset points", ha=align, va="center", weight="bold")
