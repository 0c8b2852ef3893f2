"""Closed forms of the schedules at their corners and in between."""

import math
from itertools import pairwise

import pytest

from amaru.train.schedule import cosine, wsd


@pytest.mark.parametrize("schedule", [cosine, wsd])
def test_corners(schedule) -> None:
    shares = [schedule(step, steps=101, warmup=10, final_share=0.1) for step in range(101)]
    assert shares[:10] == pytest.approx([n / 10 for n in range(1, 11)])
    assert shares[10] == 1
    assert shares[100] == pytest.approx(0.1, abs=1e-15)
    assert all(later <= earlier for earlier, later in pairwise(shares[10:]))


def test_cosine_in_between() -> None:
    assert cosine(50, steps=101, warmup=0, final_share=0.0) == pytest.approx(0.5)
    assert cosine(25, steps=101, warmup=0, final_share=0.2) == pytest.approx(0.2 + 0.8 * (1 + math.sqrt(0.5)) / 2)


def test_wsd_is_flat_and_then_straight() -> None:
    shares = [wsd(step, steps=100, warmup=5, final_share=0.5) for step in range(100)]
    assert set(shares[4:80]) == {1.0}
    drops = [earlier - later for earlier, later in pairwise(shares[79:])]
    assert drops == pytest.approx([0.5 / 20] * 20)


@pytest.mark.parametrize("schedule", [cosine, wsd])
def test_the_shortest_runs(schedule) -> None:
    assert schedule(0, steps=1, warmup=0, final_share=0.1) <= 1
    assert schedule(0, steps=2, warmup=1, final_share=0.1) == 1
