"""Judges in their order, comparisons that pass the gate, and a judge model that must not change its mind with the order."""

import math
from pathlib import Path

import pytest
from tests.align.rounds.small import row, speaker

from amaru.align.comparisons import Comparison
from amaru.align.rounds import Answered, Gate, Judges, Prompt, compared, judge
from amaru.align.rounds.duel import JudgeModel
from amaru.align.rounds.pairing import spread
from amaru.align.rounds.prompts import prompt_of
from amaru.config.functions import function_named
from amaru.errors import ConfigError, DataError

CHECKED = prompt_of("p:1", row("sun", "sea"))
FREE = Prompt(({"role": "user", "content": "hello"},), source="p:2")


def said(*texts: str, model: str = "itself") -> list[tuple[str, Answered]]:
    return [(model, Answered(text, 1, whole=not text.endswith("..."))) for text in texts]


def by_length(some: list[Comparison]) -> list[list[float]]:
    return [[float(len(answer.text)) for answer in each.answers] for each in some]


def test_the_verifier_has_the_first_word() -> None:
    judges = Judges(scorer=by_length)  # type: ignore[arg-type]
    answers = [said("sun sea", "sun", "sun", "hill", "cut off..."), said("hi", "hello"), said("sun sea", "sun and sea")]
    first, second, third = judge([CHECKED, FREE, CHECKED], answers, judges)
    assert [(each.text, each.reward, each.by) for each in first] == [
        ("sun sea", 1.0, "verifier"),
        ("sun", 0.5, "verifier"),
        ("hill", 0.0, "verifier"),
    ]
    assert [(each.verified, each.reward, each.by) for each in second] == [(None, 2.0, "reward model"), (None, 5.0, "reward model")]
    assert [(each.verified, each.reward) for each in third] == [(1.0, 7.0), (1.0, 11.0)]  # equally good, so the reward model tells


def test_nobody_tells_apart_what_nobody_judges() -> None:
    (found,) = judge([FREE], [said("hi", "hello")], Judges())
    comparisons, tally = compared([(FREE, found)], Gate(), 2)
    assert not comparisons and tally.refused == {"nobody told the answers apart": 1}
    (alone,) = judge([FREE], [said("hi", "hi", "cut...")], Judges(scorer=by_length))  # type: ignore[arg-type]
    assert compared([(FREE, alone)], Gate(), 2)[1].refused == {"fewer than two different whole answers": 1}


def test_a_duel_counts_the_first_two() -> None:
    (found,) = judge([FREE], [said("hi", "hello", "hey")], Judges(duel=lambda prompt, one, other: 3.0))
    assert [(each.reward, each.by) for each in found] == [(1.5, "judge model"), (-1.5, "judge model"), (None, "judge model")]
    (comparison,), tally = compared([(FREE, found)], Gate(), 2)
    assert [answer.text for answer in comparison.answers] == ["hi", "hello"] and tally.by == {"judge model": 1}
    (open_,) = judge([FREE], [said("hi", "hello")], Judges(duel=lambda prompt, one, other: None))
    assert all(each.reward is None for each in open_)


def test_gates_strict_and_loose() -> None:
    (half,) = judge([CHECKED], [said("sun", "hill")], Judges())
    assert compared([(CHECKED, half)], Gate(), 2)[1].refused == {"the best answer does too little of what is asked": 1}
    (comparison,), tally = compared([(CHECKED, half)], Gate(verified=0.5), 2)
    assert comparison.rewards == (0.5, 0.0) and comparison.answers[0].attributes == {"verified": 0.5} and comparison.pairs == ((0, 1),)
    assert str(tally) == "1 comparisons of 1 prompts (1 by the verifier)" and tally.models == {"itself": 1}
    assert compared([(CHECKED, half)], Gate(verified=0.5, gap=0.5), 2)[1].refused == {"the answers are too close": 1}
    (liked,) = judge([FREE], [said("hi", "hello")], Judges(scorer=by_length))  # type: ignore[arg-type]
    assert compared([(FREE, liked)], Gate(reward=5.5), 2)[1].refused == {"the best answer has too low a reward": 1}
    assert compared([(FREE, liked)], Gate(reward=5.0), 2)[1].kept == 1


def test_rewards_that_are_no_numbers_rank_nothing() -> None:
    (found,) = judge([FREE], [said("hi", "hello", "hey")], Judges(scorer=lambda some: [[2.0, math.nan, 1.0] for _ in some]))  # type: ignore[arg-type]
    assert compared([(FREE, found)], Gate(), 2)[1].refused == {"a reward is not finite": 1}
    with pytest.raises(ConfigError, match="reward"):
        Gate(reward=math.nan)


def test_several_answers_are_the_best_the_worst_and_some_between() -> None:
    texts = ["a" * length for length in (3, 7, 1, 5, 2)]
    (found,) = judge([FREE], [said(*texts)], Judges(scorer=by_length))  # type: ignore[arg-type]
    (comparison,), _ = compared([(FREE, found)], Gate(), 3)
    assert [len(answer.text) for answer in comparison.answers] == [7, 3, 1]
    assert spread(7, 3) == [0, 3, 6] and spread(2, 5) == [0, 1] and spread(5, 5) == [0, 1, 2, 3, 4]


def test_a_judge_model_is_asked_both_ways_round() -> None:
    duel, texts = JudgeModel(speaker()), ["sun", "sun sea", "hill", "tree bird", "wind", "sea sea sea"]
    outcomes = {(one, other): duel(FREE, one, other) for one in texts for other in texts if one != other}
    for (one, other), margin in outcomes.items():
        back = outcomes[other, one]
        assert (margin is None) == (back is None) and (margin is None or back is None or margin == pytest.approx(-back))
        ahead, behind = duel._prefers_first(FREE, one, other), duel._prefers_first(FREE, other, one)
        assert (margin is None) == (ahead * behind > 0)  # the place decided, not the answer
    asked = duel.asked(FREE, "sun", "sea")[0]["content"]
    assert asked.index("hello") < asked.index("sun") < asked.index("sea")


def test_a_verifier_of_one_s_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def short(record, text):\n    return float(len(text) <= record['most'])\n\ndef wrong(record, text):\n    return 2\n")
    by = lambda name: Judges(function=function_named(f"{file}:{name}"))  # noqa: E731
    prompt = Prompt(FREE.messages, record={"most": 2})
    (found,) = judge([prompt], [said("hi", "hello")], by("short"))
    assert [each.verified for each in found] == [1.0, 0.0]
    with pytest.raises(DataError, match=r"the verifier gave 2\.0"):
        judge([prompt], [said("hi", "hello")], by("wrong"))
    with pytest.raises(DataError, match=r"p:2: the verifier ended in KeyError: 'most'"):
        judge([FREE], [said("hi", "hello")], by("short"))
