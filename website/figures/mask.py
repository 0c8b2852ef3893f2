"""Who sees whom behind a window with meta tokens: the rule of `ops.attention` at a size that can be drawn."""

from matplotlib.collections import PolyCollection
from matplotlib.patches import Rectangle

from amaru.report.svg import INK, canvas

META, TOKENS, WINDOW = 4, 20, 5
Square = list[tuple[float, float]]


def draw() -> str:
    with canvas(3.9) as c:
        for squares, face, edge in zip(_squares(), ("attention", "mamba2", None), ("none", "none", INK["faint"]), strict=True):
            c.axes.add_collection(PolyCollection(squares, facecolors=INK[face] if face else "none", edgecolors=edge, linewidths=0.6))
        for x, y, text in (
            (META / 2, -META - TOKENS - 0.6, f"{META} meta tokens"),
            (META + TOKENS / 2, -META - TOKENS - 0.6, f"{TOKENS} tokens of the text, as keys"),
        ):
            c.axes.text(x, y + 1, text, ha="center", va="top")
        c.axes.text(-0.6, -(META + TOKENS) / 2, "the same, as queries", rotation=90, ha="center", va="center")
        handles = [
            Rectangle((0, 0), 1, 1, facecolor=INK["attention"], linewidth=0, label="meta tokens: always seen"),
            Rectangle((0, 0), 1, 1, facecolor=INK["mamba2"], linewidth=0, label=f"itself and {WINDOW} before: the window"),
            Rectangle((0, 0), 1, 1, facecolor="none", edgecolor=INK["faint"], label="behind the window: given away"),
        ]
        c.axes.set(xlim=(-1.5, META + TOKENS + 28), ylim=(-META - TOKENS - 1.2, 1.2), aspect="equal")
        c.axes.legend(handles=handles, loc="center right", handlelength=0.9)
        c.axes.set_axis_off()
    return c.text


def _squares() -> tuple[list[Square], list[Square], list[Square]]:
    """Those of meta tokens, of the window, and of what lies behind it."""
    found: tuple[list[Square], list[Square], list[Square]] = ([], [], [])
    for query in range(META + TOKENS):
        for key in range(query + 1):
            left, right, low, high = key + 0.06, key + 0.94, 0.06 - query, 0.94 - query
            found[0 if key < META else 1 if query - key <= WINDOW else 2].append([(left, low), (right, low), (right, high), (left, high)])
    return found
