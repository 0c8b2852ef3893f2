"""What a sample of items says: a mean with its 95 % interval, and whether two models differ on the same items.

Shares (every score 0 or 1)   Wilson's interval; two models by McNemar's exact test on the items that only one got right
other scores                  mean of scores with weights, interval from the linearised standard error; two models by paired bootstrap
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import binomtest

Z = 1.959963984540054  # of the normal distribution, 95 %
RESAMPLES = 10_000
DRAWN_AT_ONCE = 2**20


class Score(NamedTuple):
    """One item's score, and how much it counts (the number of instructions of a prompt, of tokens of a word)."""

    value: float
    weight: float = 1.0


class Estimate(NamedTuple):
    """Of `count` items: the mean, and the interval that holds it in 95 of 100 samples (nan of fewer than two, unless shares)."""

    mean: float
    low: float
    high: float
    count: int


class Difference(NamedTuple):
    """The second's mean less the first's, its 95 % interval (paired bootstrap), the p value, and the test that gave it."""

    mean: float
    low: float
    high: float
    p: float
    test: str


def estimate(scores: Sequence[Score]) -> Estimate:
    """`estimate([Score(1), Score(0), Score(1)]).low`"""
    values, weights = np.array(scores, dtype=float).T
    mean = float((values * weights).sum() / weights.sum())
    if _are_shares(values, weights):
        return Estimate(mean, *_wilson(mean, len(values)), len(values))
    if len(values) < 2:
        return Estimate(mean, float("nan"), float("nan"), len(values))
    spread = np.square(weights * (values - mean)).sum() * len(values) / (len(values) - 1)
    half = Z * float(np.sqrt(spread) / weights.sum())
    low = max(mean - half, 0.0) if values.min() >= 0 else mean - half  # an interval keeps to the range that all scores keep to
    high = min(mean + half, 1.0) if values.max() <= 1 else mean + half
    return Estimate(mean, low, high, len(values))


def difference(first: Sequence[Score], second: Sequence[Score], seed: int = 0) -> Difference:
    """Two models on the same items, in the same order: `difference(small, large).p`."""
    one, weights = np.array(first, dtype=float).T
    two, other_weights = np.array(second, dtype=float).T
    means = _resampled(one, weights, two, other_weights, seed)
    low, high = (float(each) for each in np.quantile(means, [0.025, 0.975]))
    mean = float((two * other_weights).sum() / other_weights.sum() - (one * weights).sum() / weights.sum())
    if _are_shares(one, weights) and _are_shares(two, other_weights):
        return Difference(mean, low, high, mcnemar(int((one > two).sum()), int((two > one).sum())), "McNemar, exact")
    tail = min((means <= 0).mean(), (means >= 0).mean())
    return Difference(mean, low, high, min(1.0, 2 * max(float(tail), 1 / RESAMPLES)), "paired bootstrap")


def mcnemar(only_first: int, only_second: int) -> float:
    """The two-sided exact p of items that only one of two models got right: heads and tails of a fair coin."""
    discordant = only_first + only_second
    return float(binomtest(only_first, discordant).pvalue) if discordant else 1.0


def _resampled(one: np.ndarray, weights: np.ndarray, two: np.ndarray, other_weights: np.ndarray, seed: int) -> np.ndarray:
    """[RESAMPLES] differences of means over items drawn with replacement, some samples at a time, to keep memory small."""
    generator = np.random.default_rng(seed)
    at_once = max(1, DRAWN_AT_ONCE // len(one))
    found = []
    for first in range(0, RESAMPLES, at_once):
        items = generator.integers(len(one), size=(min(at_once, RESAMPLES - first), len(one)))
        means = [(each * of)[items].sum(-1) / of[items].sum(-1) for each, of in ((one, weights), (two, other_weights))]
        found.append(means[1] - means[0])
    return np.concatenate(found)


def _wilson(share: float, count: int) -> tuple[float, float]:
    scale = 1 + Z**2 / count
    centre = (share + Z**2 / (2 * count)) / scale
    half = Z / scale * float(np.sqrt(share * (1 - share) / count + Z**2 / (4 * count**2)))
    return max(0.0, centre - half), min(1.0, centre + half)


def _are_shares(values: np.ndarray, weights: np.ndarray) -> bool:
    return bool(np.isin(values, (0, 1)).all() and (weights == 1).all())
