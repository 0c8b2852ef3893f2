"""Learning rate schedules: the share of the peak at a step, as pure functions of the step (counted from 0).

All rise linearly to 1 over `warmup` steps, and reach `final_share` at the last step exactly. A cosine without warm-up from a low
rate is the steep decay with which Nemotron-4 was trained further.
"""

import math
from typing import Literal

WSD_DECAY_SHARE = 0.2  # of all steps; long enough to win back what a constant rate leaves (Hägele et al. 2024, arXiv 2405.18392)

Fall = Literal["linear", "sqrt", "exponential"]


def cosine(step: int, *, steps: int, warmup: int, final_share: float) -> float:
    """Half a cosine from 1 to `final_share`: Nemotron-H's schedule, there with a final share of 0.01."""
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(steps - 1 - warmup, 1)
    return final_share + (1 - final_share) * (1 + math.cos(math.pi * progress)) / 2


def wsd(
    step: int, *, steps: int, warmup: int, final_share: float, decay_share: float = WSD_DECAY_SHARE, fall: Fall = "linear"
) -> float:
    """Warm-up, stable, decay: 1 until the last `decay_share` of the steps, then down to `final_share`.

    fall   linear: a straight line; sqrt: 1 - sqrt(progress), steep at first (Hägele et al. 2024); exponential: the same ratio
           from step to step, the steepest at first (MiniCPM, arXiv 2404.06395); its `final_share` is above 0
    """
    if step < warmup:
        return (step + 1) / warmup
    decay = max(min(round(steps * decay_share), steps - 1 - warmup), 1)
    progress = max(step - (steps - 1 - decay), 0) / decay
    if fall == "exponential":
        return final_share**progress
    return 1 - (1 - final_share) * (math.sqrt(progress) if fall == "sqrt" else progress)
