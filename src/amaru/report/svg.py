"""A matplotlib figure as inline SVG: colours that follow the page, tooltips, ids of its own, the same bytes every time.

matplotlib can only write fixed colours. So a figure is drawn in stand-in colours, one per name of the palette, and each is
then replaced by the CSS variable of that name, which the page sets for light and dark.
"""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from typing import Any

from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from amaru.config import fingerprint_bytes

SERIES = tuple(f"series-{index}" for index in range(1, 7))
PALETTE = {  # name -> the light colour, for an SVG looked at outside its page
    "ink": "#1f2328",
    "soft": "#646b75",
    "faint": "#e5e2dc",
    "paper": "#fdfcfa",
    "accent": "#2d6a94",
    "mamba2": "#2d6a94",
    "attention": "#c8622b",
    "mlp": "#a9aeb5",
    "hybrid_head": "#4a8a5c",
    "moe": "#8159a6",
    **dict(zip(SERIES, ("#2d6a94", "#c8622b", "#4a8a5c", "#8159a6", "#93802c", "#6d7480"), strict=True)),
}
INK = {name: f"#fe{index:02x}01" for index, name in enumerate(PALETTE)}  # the stand-ins; no one would choose these

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "amaru",
    "font.family": "DejaVu Sans",  # measured with, then replaced by the page's font, which is narrower
    "font.size": 9.5,
    "axes.edgecolor": INK["soft"],
    "axes.labelcolor": INK["soft"],
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": INK["faint"],
    "grid.linewidth": 0.7,
    "xtick.color": INK["soft"],
    "ytick.color": INK["soft"],
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "text.color": INK["ink"],
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "legend.handlelength": 1.4,
    "legend.columnspacing": 1.6,
    "path.simplify": True,
}
WIDTH = 8.2  # inches


@dataclass
class Canvas:
    """One figure being drawn; `text` is its SVG once the `canvas` block has ended."""

    figure: Figure
    axes: Axes
    text: str = ""
    _tooltips: list[str] = field(default_factory=list)

    def mark(self, artist: Artist, tooltip: str) -> None:
        """Make an artist one of the figure's data marks, with a text shown when the pointer rests on it."""
        artist.set_gid(f"mark-{len(self._tooltips)}")
        self._tooltips.append(tooltip)

    def legend(self, columns: int, **options: object) -> None:
        """A legend in one row above the axes."""
        self.axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=columns, borderaxespad=0.2, **options)  # type: ignore[arg-type]

    def finish(self) -> None:
        buffer = io.StringIO()
        empty = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        self.figure.savefig(buffer, format="svg", transparent=True, bbox_inches="tight", pad_inches=0.04, metadata=empty)
        self.text = _inline(buffer.getvalue(), self._tooltips)


@contextmanager
def canvas(height: float) -> Iterator[Canvas]:
    """`with canvas(3.2) as c: c.axes.plot(...)` then `c.text`; height in inches at the fixed width."""
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        drawing = Canvas(figure, figure.add_subplot())
        yield drawing
        drawing.finish()


def _inline(document: str, tooltips: list[str]) -> str:
    text = document[document.index("<svg") :].strip()
    text = re.sub(r"\s*<(metadata|style).*?</\1>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\s*", "", text)
    text = re.sub(r'<svg ([^>]*?)width="[^"]*"', r'<svg role="img" \1', text, count=1)
    text = re.sub(r'(<svg [^>]*?)height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r"'DejaVu Sans'[^;\"]*", "var(--sans, sans-serif)", text)
    for name, stand_in in INK.items():
        text = text.replace(stand_in, f"var(--{name}, {PALETTE[name]})")
    for index, tooltip in enumerate(tooltips):
        text = text.replace(f'<g id="mark-{index}">', f'<g class="mark"><title>{escape(tooltip)}</title>')
    return _own_ids(_rounded(text))


def _rounded(text: str) -> str:
    """Coordinates to a hundredth of a point, which no eye can tell and which halves the size."""

    def shorten(attribute: re.Match[str]) -> str:
        return re.sub(r"(\.\d\d)\d+", r"\1", attribute[0])

    return re.sub(r'\b(?:d|x|y|width|height|viewBox|transform)="[^"]*"', shorten, text)


def _own_ids(text: str) -> str:
    """Keep the ids that something refers to, and make them unlike those of any other figure on the page."""
    prefix = f"f{fingerprint_bytes(text)[:8]}-"
    used = set(re.findall(r"[(\"]#([\w.-]+)", text))
    text = re.sub(r' id="([\w.-]+)"', lambda found: f' id="{prefix}{found[1]}"' if found[1] in used else "", text)
    return re.sub(r"([(\"]#)([\w.-]+)", rf"\g<1>{prefix}\2", text)
