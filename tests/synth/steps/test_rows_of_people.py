"""Rows of people hold anything: one that does not fit its step is told with the reason, and the others go on."""

import pytest
from tests.synth.steps.through import through

from amaru.errors import ConfigError

GOOD = {"prompt": "Why?", "answer": "So there", "other": "No", "expected": "there", "score": 1.0}
GOOD |= {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
VERIFY = {"kind": "verify", "by": "instructions"}


@pytest.mark.parametrize(
    ("step", "wrong", "words"),
    [
        ({"kind": "reward", "model": "reward"}, {"answer": None}, "reads a text in column answer; the row has None"),
        ({"kind": "compare", "model": "judge"}, {"other": 5}, "reads a text in column other; the row has 5"),
        ({"kind": "constrain", "turn": "revise"}, {"answer": ["So"]}, "reads a text in column answer"),
        ({"kind": "respond", "models": ["writer"]}, {"prompt": [{"role": "user", "content": None}]}, "whose role and content are texts"),
        ({"kind": "constrain"}, {"prompt": [{"role": "assistant", "content": "So."}]}, "needs a request; the conversation in"),
        ({"kind": "constrain", "turn": "later"}, {"prompt": [{"role": "system", "content": "So."}]}, "ends with system"),
        ({"kind": "columns", "set": {"new": "{{ other | length }}"}}, {"other": 5}, "cannot be written: object of type 'int' has no len()"),
        ({"kind": "columns", "compute": {"new": "10.0 ** score"}}, {"score": 400.0}, "cannot be computed"),
        (VERIFY | {"by": "result"}, {"answer": None}, "reads a text in column answer"),
        (VERIFY | {"by": "program"}, {"answer": 1}, "reads a text in column answer"),
        (VERIFY, {"answer": None}, "A conversation is a text or a list"),
        (VERIFY, {"kwargs": 3}, "cannot be checked"),
        (VERIFY, {"instruction_id_list": ["keywords:existence"], "kwargs": [{"keywords": 3}]}, "cannot be checked"),
        (VERIFY, {"instruction_id_list": ["length_constraints:number_words"], "kwargs": [{"num_words": 3, "relation": ""}]}, "compares by"),
    ],
)
def test_a_row_that_does_not_fit_fails_alone(tmp_path, step, wrong, words):
    _, tallies, _, _ = through(tmp_path, [GOOD | wrong, GOOD], step)
    (reason,), tally = tallies["step0"].failed, tallies["step0"]
    assert words in reason and tally.made + tally.dropped.total() == 1 == tally.failed.total()


@pytest.mark.parametrize("tasks", ["Sort.", [], ["Sort.", 5], None])
def test_a_colony_is_a_list_of_tasks(tmp_path, tasks):
    step = {"kind": "evolve", "model": "writer", "of": "tasks", "size": 1}
    _, tallies, _, _ = through(tmp_path, [{"tasks": tasks}], step)
    assert "reads a list of texts in column tasks" in next(iter(tallies["step0"].failed))


@pytest.mark.parametrize("score", [float("nan"), float("inf"), True])
def test_a_score_that_is_no_number_makes_no_pair(tmp_path, score):
    rows = [GOOD, GOOD | {"answer": "So here", "score": score}, GOOD | {"answer": "Or so", "score": 2.0}]
    (pair,), tallies, _, _ = through(tmp_path, rows, {"kind": "pairs"})
    assert (pair["chosen_reward"], pair["rejected_reward"]) == (2.0, 1.0)
    assert tallies["step0"].dropped == {"score is not a number": 1}


@pytest.mark.parametrize("step", [{"counts": [0]}, {"kinds": []}, {"kinds": ["combination:repeat_prompt"], "turn": "later"}])
def test_a_step_that_would_ask_for_nothing_is_refused(tmp_path, step):
    with pytest.raises(ConfigError, match="draws no instruction"):
        through(tmp_path, [GOOD], {"kind": "constrain", **step})


@pytest.mark.parametrize("kind", ["unique", "opponents", "comparisons", "pairs"])
def test_rows_that_say_nothing_are_not_taken_for_equal(tmp_path, kind):
    rows = [GOOD | {"answer": None}, GOOD | {"answer": None}, GOOD, GOOD | {"answer": "So here", "score": 2.0}]
    made, tallies, _, _ = through(tmp_path, rows, {"kind": kind} | ({"column": "answer"} if kind == "unique" else {}))
    assert tallies["step0"].dropped == {"no column answer": 2} and made


def test_a_column_that_no_step_makes_is_told_before_copies_are_looked_for(tmp_path):
    with pytest.raises(ConfigError, match="reads column anwser, which no step before makes; there is answer"):
        through(tmp_path, [GOOD], {"kind": "unique", "column": "anwser"})
