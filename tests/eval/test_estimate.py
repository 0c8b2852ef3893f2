"""Intervals and tests against closed forms and tables."""

import numpy as np
import pytest

from amaru.eval.estimate import Score, difference, estimate, mcnemar


def test_shares_have_wilsons_interval() -> None:
    found = estimate([Score(1)] * 8 + [Score(0)] * 2)
    assert found == pytest.approx((0.8, 0.4902, 0.9433, 10), abs=1e-4)  # Wilson 1927, 8 of 10
    assert estimate([Score(1)] * 3).high == 1 and estimate([Score(0)]).low == 0


def test_other_scores_have_that_of_their_standard_error() -> None:
    values = [0.5, 1.5, 4.0, 2.5]
    found = estimate([Score(value) for value in values])
    half = 1.959964 * np.std(values, ddof=1) / 2
    assert found == pytest.approx((np.mean(values), np.mean(values) - half, np.mean(values) + half, 4))
    assert np.isnan(estimate([Score(0.5)]).low)


def test_weights_count_instructions_and_not_prompts() -> None:
    found = estimate([Score(1, 1), Score(0, 3)])
    assert found.mean == 0.25 and found.low == 0 and 0.25 < found.high <= 1  # shares of instructions, which no interval leaves


def test_mcnemar_is_the_coin() -> None:
    assert mcnemar(1, 9) == pytest.approx(2 * (1 + 10) / 2**10)
    assert mcnemar(0, 0) == 1 and mcnemar(4, 4) == 1


def test_models_are_compared_item_by_item() -> None:
    draw = np.random.default_rng(0)
    easy = draw.random(200)
    first, second = ([Score(float(each < bar)) for each in easy] for bar in (0.5, 0.6))  # the second gets all that the first gets, and more
    found = difference(first, second)
    only = sum(two.value > one.value for one, two in zip(first, second, strict=True))
    assert found.test == "McNemar, exact" and found.p == pytest.approx(2 * 0.5**only)
    assert found.mean == pytest.approx(only / 200) and 0 < found.low < found.mean < found.high
    assert difference(first, first).p == 1


def test_scores_that_are_no_shares_are_resampled_in_pairs() -> None:
    draw = np.random.default_rng(1)
    noise = draw.normal(0, 10, 200)  # common to both, so only pairing shows the difference
    first, second = [Score(x) for x in noise], [Score(x + d) for x, d in zip(noise, draw.normal(1, 0.5, 200), strict=True)]
    found = difference(first, second)
    assert found.test == "paired bootstrap" and found.p < 0.001 and 0.8 < found.low < found.high < 1.2
    assert difference(second, first).mean == pytest.approx(-found.mean)
