"""Scores of a reward model in the form of Nemotron-4-340B-Reward's endpoint."""

import json

import pytest
from tests.synth.steps.through import through

from amaru.synth.attempt import Broken
from amaru.synth.attributes import read_attributes

SCORES = {"helpfulness": 1.6171875, "correctness": 1.6484375, "coherence": 3.3125, "complexity": 0.546875, "verbosity": 0.515625}
ROW = {"prompt": "Why?", "answer": "Because."}


def test_attributes_are_kept_as_they_are_and_added_up_by_the_published_weights(tmp_path):
    (row,), _, server, told = through(tmp_path, [ROW], {"kind": "reward", "model": "reward"}, script=lambda body: SCORES)
    assert row["attributes"] == SCORES and row["score"] == pytest.approx(3.315625, abs=1e-12)  # NVIDIA's example
    assert [message["role"] for message in server.bodies[0]["messages"]] == ["user", "assistant"]
    assert (server.requests, told) == (1, 1)


def test_a_dialogue_is_scored_with_its_last_answer_and_filtered(tmp_path):
    said = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}]
    steps = [{"kind": "reward", "model": "reward", "of": "said", "answer": None, "weights": {"helpfulness": 1.0}}]
    steps.append({"kind": "filter", "where": "score >= 3.0"})
    rows = [{"said": said}, {"said": [*said, {"role": "user", "content": "So?"}, {"role": "assistant", "content": "No."}]}]
    made, _, server, _ = through(tmp_path, rows, *steps, script=lambda body: {"helpfulness": len(body["messages"]) * 1.0})
    assert [row["score"] for row in made] == [4.0] and [len(body["messages"]) for body in server.bodies] in ([2, 4], [4, 2])


def test_what_is_missing_is_told(tmp_path):
    for name, script, words in (
        ("a", lambda body: {"helpfulness": 1.0}, "the reward model tells no correctness, coherence, complexity, verbosity"),
        ("b", lambda body: "It is good.", "holds no scores; a reward model gives them as logprobs"),
    ):
        rows, tallies, _, _ = through(tmp_path / name, [ROW], {"kind": "reward", "model": "reward"}, script=script)
        assert not rows and words in next(iter(tallies["step0"].failed))


def test_both_forms_of_scores_are_read():
    content = [{"token": "helpfulness", "logprob": 1.5}, {"token": "verbosity", "logprob": -0.25}]
    said = "helpfulness:1.5,verbosity:-0.25"
    parts = [{"content": said, "role": "assistant"}]
    choices = [{"logprobs": {"content": content}}, {"message": {"content": said}}, {"message": {"content": parts}, "logprobs": None}]
    for choice in choices:
        assert json.loads(read_attributes(choice)) == {"helpfulness": 1.5, "verbosity": -0.25}
    for choice in ({"logprobs": {"content": [{"token": "x"}]}}, {"message": {"content": "fine"}}, {"message": {"content": "a: nan"}}):
        with pytest.raises(Broken):
            read_attributes(choice)
