"""Steps that must not be learned from: what counts as a loss spike, and what happens to one or to a number that is not finite.

The verdict is a function of the record of earlier steps, so a resumed run comes to the same one.
"""

import math
from dataclasses import dataclass
from statistics import median
from typing import Literal

from pydantic import Field

from amaru.config import Config
from amaru.train.metrics import Past

NORMAL = 1.4826  # times the median absolute deviation: the standard deviation of a normal distribution
Action = Literal["note", "skip", "stop"]


class Guard(Config):
    """`Guard(spike="skip", deviations=6)`: when a step is set aside.

    window        a loss is a spike when it lies above the median of the last `window` learned steps of the same phase
    deviations    ... by more than so many of their robust standard deviations (1.4826 x median absolute deviation);
                  nothing is judged before so many steps are there
    spike         note: learn from it and record it; skip: record it, leave weights and optimizer as they are; stop: an error
    not_finite    the same for a loss or gradient that is NaN or infinite, from which nothing can be learned
    most_skipped  so many steps in a row are skipped before the run stops all the same
    """

    window: int = Field(default=100, ge=3)
    deviations: float = Field(default=8.0, gt=0)
    spike: Action = "note"
    not_finite: Literal["skip", "stop"] = "stop"
    most_skipped: int = Field(default=10, ge=0)

    def judge(self, loss: float, grad_norm: float, phase: str, past: Past) -> "Verdict | None":
        """What is wrong with a step, given those before it (`Past(guard.window)`); None when nothing is."""
        for what, value in (("loss", loss), ("gradient norm", grad_norm)):
            if not math.isfinite(value):
                return self._verdict(f"the {what} became {value}", "not finite", self.not_finite, past)
        limit = self.limit(phase, past)
        if loss > limit:
            return self._verdict(f"the loss {loss:.4f} is a spike, above {limit:.4f}", "spike", self.spike, past)
        return None

    def limit(self, phase: str, past: Past) -> float:
        """The loss above which a step is a spike; infinite while there are too few to tell."""
        if past.phase != phase or len(past.losses) < self.window:
            return math.inf
        middle = median(past.losses)
        return middle + self.deviations * NORMAL * median(abs(loss - middle) for loss in past.losses)

    def _verdict(self, reason: str, event: str, action: Action, past: Past) -> "Verdict":
        if action == "skip" and past.skipped >= self.most_skipped:
            return Verdict(f"{reason}, after {past.skipped} skipped steps in a row", event, "stop")
        return Verdict(reason, event, action)


@dataclass(frozen=True)
class Verdict:
    """Why a step was set aside, in words for people; the event's name in the record; what is done."""

    reason: str
    event: str
    action: Action
