"""A heat map: a share in every cell of a grid, darker where it is larger, and written in it."""

from collections.abc import Mapping

from matplotlib.patches import Rectangle

from amaru.report.numbers import percent
from amaru.report.svg import INK, canvas


def heat_map(cells: Mapping[tuple[str, str], float], x_label: str, y_label: str) -> str:
    """`heat_map({("4k", "0.5"): 0.8, ...}, "tokens", "depth")`: cells by (column, row), in the order in which they first appear."""
    columns, rows = ([*dict.fromkeys(key[axis] for key in cells)] for axis in (0, 1))
    with canvas(0.9 + 0.42 * len(rows)) as c:
        for (column, row), share in cells.items():
            x, y = columns.index(column), rows.index(row)
            tone = 0.08 + 0.72 * share
            face = c.axes.add_patch(Rectangle((x + 0.02, y + 0.03), 0.96, 0.94, facecolor=INK["accent"], alpha=tone, linewidth=0))
            c.mark(face, f"{x_label} {column}, {y_label} {row}: {percent(share)}")
            c.axes.text(x + 0.5, y + 0.5, f"{100 * share:.0f}", ha="center", va="center", color=INK["paper" if share > 0.5 else "ink"])
        c.axes.set(xlim=(0, len(columns)), ylim=(len(rows), 0), xlabel=x_label, ylabel=y_label)
        c.axes.set_xticks([place + 0.5 for place in range(len(columns))], columns)
        c.axes.set_yticks([place + 0.5 for place in range(len(rows))], rows)
        c.axes.grid(visible=False)
        c.axes.tick_params(length=0)
        for spine in c.axes.spines.values():
            spine.set_visible(False)
    return c.text
