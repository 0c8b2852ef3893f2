"""The known failure of preference optimisation, told while it happens: chosen and rejected answers become less likely together."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from amaru.train.metrics import StepMetrics

WINDOW = 20  # steps that are averaged
LEAST = 0.5  # nats an answer by which the chosen ones must have fallen


class Fallen(NamedTuple):
    """At which step, and by how many nats an answer against the reference."""

    step: int
    chosen: float
    rejected: float

    def __str__(self) -> str:
        return (
            f"step {self.step}: chosen and rejected answers both became less likely than the reference has them ({self.chosen:+.1f} and "
            f"{self.rejected:+.1f} nats an answer, mean of {WINDOW} steps), so probability goes to answers that nobody wrote. A larger SFT "
            "weight, a larger beta or a smaller learning rate holds them."
        )


@dataclass
class Falling:
    """`warning = Falling().seen(metrics)`: a `Fallen` at the first step where it shows, else None."""

    told: bool = False
    _last: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=WINDOW))

    def seen(self, metrics: StepMetrics) -> Fallen | None:
        self._last.append((metrics.parts["chosen"], metrics.parts["rejected"]))
        if self.told or len(self._last) < WINDOW:
            return None
        chosen, rejected = (sum(values) / WINDOW for values in zip(*self._last, strict=True))
        self.told = chosen < -LEAST and rejected < -LEAST
        return Fallen(metrics.step, chosen, rejected) if self.told else None


def fallen(steps: Iterable[StepMetrics]) -> Fallen | None:
    """The first of a whole run."""
    watching = Falling()
    return next((found for step in steps if (found := watching.seen(step)) is not None), None)
