"""What a few seeds say: a mean and how far it may be off."""

from collections.abc import Sequence
from math import sqrt
from statistics import mean, stdev

from scipy.stats import t as student


def interval(values: Sequence[float]) -> list[float] | None:
    """`interval([0.1, 0.2, 0.15])`: [low, high], 95 % for the mean over seeds (Student's t); None of fewer than two."""
    if len(values) < 2:
        return None
    half = float(student.ppf(0.975, len(values) - 1)) * stdev(values) / sqrt(len(values))
    return [mean(values) - half, mean(values) + half]
