"""How far a run is, from rows and calls counted by hand."""

from collections import Counter

import pytest
from tests.synth.recipes import FIVE_STEPS, bound

from amaru.synth.budget import Usage
from amaru.synth.forecast import forecast
from amaru.synth.progress import Watch, duration
from amaru.synth.running import Tally

RECIPE = bound("http://x/v1", [{"name": "seeds", "kind": "seeds", "rows": [{"n": 1}, {"n": 2}]}, *[{**step} for step in FIVE_STEPS]])


def watch(**tallies):
    return Watch(RECIPE.recipe, forecast(RECIPE), {step.name: tallies.get(step.name, Tally()) for step in RECIPE.recipe.steps})


def test_what_is_to_come_follows_from_what_steps_made_so_far():
    tallies = {
        "topics": Tally(taken=2, done=2, made=8),
        "questions": Tally(taken=8, done=4, made=12, dropped=Counter(old=1)),  # three of each, not the five that were forecast
        "levels": Tally(taken=12, done=12, made=12, failed=Counter(bad=3)),
    }
    now = watch(seeds=Tally(made=2), **tallies).now(Usage(calls=6), Usage(calls=106, completion_tokens=7, money=0.5), 2)
    assert [(step.name, step.done, step.expected) for step in now.steps] == [
        ("seeds", 2, 2),
        ("topics", 2, 2),
        ("questions", 4, 8),
        ("levels", 12, 24),
        ("answers", 0, 24),
        ("scores", 0, 24),
    ]
    assert [step.accepted for step in now.steps[2:5]] == [0.75, 0.75, None]
    assert now.seconds_left == pytest.approx((4 + 24 + 24) / now.calls_a_second)
    assert "questions 4/8" in now.line and "cost 0.5000" in now.line and "2 times pushed back" in now.line


def test_before_the_first_call_nothing_is_promised_and_a_preview_is_as_long_as_it_is():
    now = watch().now(Usage(), Usage(), 0)
    assert (now.seconds_left, [step.expected for step in now.steps]) == (None, [2, 2, 8, 40, 40, 40])
    few = Watch(RECIPE.recipe, forecast(RECIPE), {step.name: Tally() for step in RECIPE.recipe.steps}, only=3).now(Usage(), Usage(), 0)
    assert [step.expected for step in few.steps] == [2, 2, 3, 3, 3, 3]


def test_times_are_told_as_people_do():
    assert [duration(seconds) for seconds in (4.4, 89, 100, 754, 7200)] == ["4 s", "89 s", "2 min", "13 min", "2 h"]
