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


@pytest.mark.parametrize("fall", ["linear", "sqrt", "exponential"])
def test_every_fall_begins_at_one_and_ends_at_the_final_share(fall: str) -> None:
    shares = [wsd(step, steps=51, warmup=5, final_share=0.04, decay_share=0.4, fall=fall) for step in range(51)]
    assert set(shares[4:31]) == {1.0} and shares[50] == pytest.approx(0.04, abs=1e-12)
    middle = {"linear": 0.52, "sqrt": 1 - 0.96 * math.sqrt(0.5), "exponential": 0.2}
    assert shares[40] == pytest.approx(middle[fall])
    assert all(later < earlier for earlier, later in pairwise(shares[30:]))


def test_a_decay_over_the_whole_run_still_warms_up() -> None:
    shares = [wsd(step, steps=21, warmup=4, final_share=0.0, decay_share=1.0) for step in range(21)]
    assert shares[3:5] == [1.0, 1.0] and shares[20] == 0
    assert [wsd(step, steps=11, warmup=0, final_share=0.0, decay_share=1.0) for step in (0, 5, 10)] == pytest.approx([1, 0.5, 0])
