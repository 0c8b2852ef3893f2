"""RPO's loss by the gap that the model expresses, for three gaps of the rewards that were given, and DPO's beside it."""

from math import exp, log

from amaru.report.svg import INK, SERIES, canvas

GIVEN = (0.0, 1.0, 3.0)
GAPS = [step / 20 for step in range(-60, 141)]


def rpo(a: float, b: float) -> float:
    """KL between the Bernoulli distributions of sigmoid(b) and sigmoid(a)."""
    p, q = _sigmoid(b), _sigmoid(a)
    return p * log(p / q) + (1 - p) * log((1 - p) / (1 - q))


def dpo(a: float) -> float:
    return log(1 + exp(-a))


def _sigmoid(x: float) -> float:
    return 1 / (1 + exp(-x))


def draw() -> str:
    with canvas(3.2) as c:
        for b, colour in zip(GIVEN, SERIES, strict=False):
            (line,) = c.axes.plot(GAPS, [rpo(a, b) for a in GAPS], color=INK[colour], label=f"RPO, rewards {b:g} apart")
            c.mark(line, f"least where the gap of the model is {b:g}")
            c.axes.plot([b], [0], "o", color=INK[colour], markersize=6, clip_on=False, zorder=3)
        (line,) = c.axes.plot(GAPS, [dpo(a) for a in GAPS], color=INK["soft"], linestyle="--", label="DPO, whatever the rewards")
        c.mark(line, "falls for ever")
        c.axes.grid(visible=False, axis="x")
        c.axes.margins(x=0.01)
        c.axes.set(xlabel="gap that the model expresses: a = beta (h of one answer - h of the other)", ylabel="loss", ylim=(0, 2.2))
        c.legend(columns=2)
    return c.text
