"""How many shapes each stage of the demo's search leaves; docs/results/demo.md and the README tell the run."""

from amaru.report.svg import INK, canvas

STAGES = (
    ("shapes of the grid", 1350, "counted, not built"),
    ("use 85 to 100 % of the budget", 364, "counted"),
    ("far apart in shape", 32, "cut by importance, loss as cut: 4.615 to 5.753"),
    ("best of different shapes", 3, "distilled for a short while"),
    ("winner", 1, "distilled to the end: 3.920"),
)


def draw() -> str:
    with canvas(2.3) as c:
        for place, (name, count, note) in enumerate(STAGES):
            (bar,) = c.axes.barh(-place, count, height=0.62, left=0.6, color=INK["mamba2"])
            c.mark(bar, f"{name}: {count:,}")
            c.axes.text(0.5, -place, name, ha="right", va="center")
            c.axes.text(count * 1.15 + 0.7, -place, f"{count:,}: {note}", va="center", color=INK["soft"], size=8.5)
        c.axes.set(xscale="log", xlim=(0.6, 60_000))
        c.axes.set_axis_off()
    return c.text
