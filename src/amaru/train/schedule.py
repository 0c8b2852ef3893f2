"""Learning rate schedules: the share of the peak at a step, as pure functions of the step (counted from 0).

Both rise linearly to 1 over `warmup` steps, and reach `final_share` at the last step exactly.
"""

import math

WSD_DECAY_SHARE = 0.2  # of all steps; long enough to win back what a constant rate leaves (Hägele et al. 2024, arXiv 2405.18392)


def cosine(step: int, *, steps: int, warmup: int, final_share: float) -> float:
    """Half a cosine from 1 to `final_share`: Nemotron-H's schedule, there with a final share of 0.01."""
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(steps - 1 - warmup, 1)
    return final_share + (1 - final_share) * (1 + math.cos(math.pi * progress)) / 2


def wsd(step: int, *, steps: int, warmup: int, final_share: float) -> float:
    """Warm-up, stable, decay: 1 until the last fifth of the steps, then a straight line to `final_share`."""
    if step < warmup:
        return (step + 1) / warmup
    decay = max(round(steps * WSD_DECAY_SHARE), 1)
    return 1 - (1 - final_share) * max(step - (steps - 1 - decay), 0) / decay


SCHEDULES = {"cosine": cosine, "wsd": wsd}
