"""Answers of several models."""

from collections import Counter

import pytest
from tests.synth.steps.through import recipe, through

from amaru.errors import ConfigError

ROWS = [{"prompt": f"Question {number}"} for number in range(9)]


def test_every_model_answers_so_many_times_and_is_named(tmp_path):
    rows, _, server, told = through(tmp_path, ROWS[:2], {"kind": "respond", "models": ["writer", "other"], "samples": 2})
    assert [(row["prompt"][-1], row["answered_by"]) for row in rows] == [
        ("0", "writer"), ("0", "writer"), ("0", "other"), ("0", "other"), ("1", "writer"), ("1", "writer"), ("1", "other"), ("1", "other")
    ]  # fmt: skip
    assert len({row["answer"] for row in rows}) == 8  # samples differ, as each has a seed of its own
    assert server.requests == told == 8 and Counter(body["model"] for body in server.bodies) == {"writer": 4, "other": 4}


def test_models_are_drawn_for_each_row_and_the_plan_counts_them(tmp_path):
    step = {"kind": "respond", "models": ["writer", "other", "third"], "pick": 2}
    rows, _, server, told = through(tmp_path, ROWS, step)
    drawn = Counter(tuple(row["answered_by"] for row in rows if row["prompt"] == asked["prompt"]) for asked in ROWS)
    assert all(len(set(pair)) == 2 for pair in drawn) and len(drawn) > 1
    assert len(rows) == server.requests == told == 18


def test_a_conversation_is_sent_as_it_is(tmp_path):
    said = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}]
    said.append({"role": "user", "content": "Go on."})
    _, _, server, _ = through(tmp_path, [{"prompt": said}], {"kind": "respond", "models": ["writer"]})
    assert server.bodies[0]["messages"] == said
    _, tallies, _, _ = through(tmp_path / "b", [{"prompt": 3}], {"kind": "respond", "models": ["writer"]})
    assert "A conversation is a text or a list of messages" in next(iter(tallies["step0"].failed))


def test_settings_that_say_nothing_are_refused():
    for step, words in (({"models": ["writer", "writer"]}, "a model twice"), ({"models": ["writer"], "pick": 1}, "leave pick out")):
        with pytest.raises(ConfigError, match=words):
            recipe(ROWS, [{"kind": "respond", **step}])
