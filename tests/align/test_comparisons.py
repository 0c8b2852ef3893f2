"""Comparisons from every layout; what is wrong with a row is a sentence with its place, and nothing goes on silently."""

import json
from pathlib import Path

import pytest
from tests.align.small import comparison

from amaru.align import Answer, Comparison, read, write
from amaru.align.comparisons import scored
from amaru.align.reading import overlap, unlike
from amaru.errors import DataError

ASKED = [{"role": "user", "content": "2 + 2?"}]
RATED = {"helpfulness": 4, "correctness": 4, "coherence": 4, "complexity": 1, "verbosity": 2}


def pair(chosen: str = "4", rejected: str = "5") -> dict:
    return {"prompt": "2 + 2?", "chosen": chosen, "rejected": rejected}


def answer(text: str) -> dict:
    return {"role": "assistant", "content": text}


def write_rows(path: Path, *rows: dict | str) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


LAYOUTS = {
    "amaru": {"messages": ASKED, "responses": [{"content": "5", "score": 0.5}, {"content": "4", "score": 3.5, "model": "small"}]},
    "texts": pair(),
    "texts with scores": {**pair(), "chosen_score": 3.5, "rejected_score": 0.5},
    "messages beside": {"prompt": ASKED, "chosen": [answer("4")], "rejected": [answer("5")]},
    "messages within": {"chosen": [*ASKED, answer("4")], "rejected": [*ASKED, answer("5")]},
    "binarized": {
        "prompt": "2 + 2?",
        "messages": [*ASKED, answer("4")],
        "chosen": [*ASKED, answer("4")],
        "rejected": [*ASKED, answer("5")],
        "score_chosen": 3.5,
        "score_rejected": 0.5,
    },
    "ShareGPT": {
        "conversations": [{"from": "human", "value": "2 + 2?"}],
        "chosen": {"from": "gpt", "value": "4"},
        "rejected": {"from": "gpt", "value": "5"},
    },
    "exported": {
        "prompt": "2 + 2?",
        "chosen_response": "4",
        "rejected_response": "5",
        "chosen_reward": 3.5,
        "rejected_reward": 0.5,
    },
    "UltraFeedback": {
        "instruction": "2 + 2?",
        "models": ["a", "b"],
        "completions": [
            {"model": "b", "response": "5", "overall_score": 10, "fine-grained_score": 0.5, "annotations": {"honesty": {"Rating": "N/A"}}},
            {"model": "a", "response": "4", "overall_score": 7, "fine-grained_score": 3.5, "annotations": {"honesty": {"Rating": "5"}}},
        ],
    },
    "preference": {"prompt": "2 + 2?", "response_1": "5", "response_2": "4", "preference_strength": 2},
    "LLMBar": {"input": "2 + 2?", "output_1": "5", "output_2": "4", "label": 2},
}


@pytest.mark.parametrize("record", LAYOUTS.values(), ids=list(LAYOUTS))
def test_every_layout_says_the_same(record: dict, tmp_path: Path) -> None:
    (found,) = read([write_rows(tmp_path / "pairs.jsonl", record)]).found
    assert found.messages == tuple(ASKED) and [each.text for each in found.answers] == ["4", "5"] and found.pairs == ((0, 1),)
    if "3.5" in json.dumps(record):
        assert found.rewards == (3.5, 0.5)
    assert found.source.endswith("pairs.jsonl:1")


def test_ratings_of_one_prompt_are_one_comparison(tmp_path: Path) -> None:
    asked = "Hello\n<extra_id_1>Assistant\nHi.\n<extra_id_1>User\n2 + 2?"
    rows = [{"prompt": asked, "response": text, **RATED, "helpfulness": helpful} for text, helpful in (("5", 1), ("4", 4), ("four", 3))]
    path = write_rows(tmp_path / "train.jsonl", *rows, {"prompt": "alone", "response": "x", **RATED})
    found = read([path], reward={"helpfulness": 1.0, "verbosity": -0.5})
    (three,) = found.found
    assert [message["role"] for message in three.messages] == ["user", "assistant", "user"] and three.messages[2]["content"] == "2 + 2?"
    assert [(each.text, each.reward) for each in three.answers] == [("4", 3.0), ("four", 2.0), ("5", 0.0)]
    assert [each.reason for each in found.dropped] == ["too few answers"]
    assert len(read([path], least=1).found) == 2
    bare = read([path]).found[0]
    (dropped,) = unlike([bare], rewards=True)
    assert "rated by coherence, complexity" in dropped.sentence and "--reward" in dropped.sentence


WRONG = {
    "equal answers": pair("4", "4"),
    "an answer is empty": pair(" \n"),
    "a reward is not finite": '{"prompt": "2 + 2?", "chosen": "4", "rejected": "5", "chosen_score": NaN, "rejected_score": 1}',
    "a reward is missing": {**pair(), "chosen_score": 1.0},
    "rewards contradict the order": {**pair(), "chosen_score": 1.0, "rejected_score": 2.0},
    "no prompt": {"chosen": [answer("4")], "rejected": [answer("5")]},
    "too few answers": {"messages": ASKED, "responses": [{"content": "4"}]},
    "not in a known layout": {"text": "2 + 2 = 4"},
    "not JSON": "{",
}


def test_scored_answers_of_one_prompt_stand_best_first_whatever_their_order(tmp_path: Path) -> None:
    rows = [{"messages": [*ASKED, answer(text)], "attributes": {}, "score": score} for text, score in (("5", 1.0), ("4", 3.0), ("3", 2.0))]
    (found,) = read([write_rows(tmp_path / "rated.jsonl", *rows)]).found
    assert [each.text for each in found.answers] == ["4", "3", "5"] and found.pairs == ((0, 1), (0, 2), (1, 2))
    assert not unlike([found], rewards=False)
    tools = [row | {"tools": [{"name": "sum"}]} for row in rows[:1]]
    assert len(read([write_rows(tmp_path / "rated.jsonl", *rows[1:], *tools)], least=1).found) == 2  # asked with tools is asked otherwise


def test_what_is_wrong_with_a_row_is_said_with_its_place(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "pairs.jsonl", pair(), *WRONG.values(), pair(), pair("4", "six"))
    found = read([path])
    assert len(found.found) == 2 and found.repeated == 1
    assert len(found.dropped) == len(WRONG) + 1
    by_line = {int(each.source.rpartition(":")[2]): each for each in found.dropped}
    for line, reason in enumerate(WRONG, start=2):
        assert by_line[line].reason == reason and by_line[line].sentence.startswith(f"{path}:{line}")
    assert by_line[len(WRONG) + 2].reason == "duplicate"
    assert "1 dropped: equal answers" in str(found) and "1 ask what another asks too" in str(found)
    with pytest.raises(DataError, match=r"no comparison to learn from in .*equal answers.*bad\.jsonl:1: two answers are the same text"):
        read([write_rows(tmp_path / "bad.jsonl", WRONG["equal answers"])])


@pytest.mark.parametrize(
    "record, sentence",
    [
        ({**pair(), "chosen_score": "high", "rejected_score": 1}, "chosen_score must be a number; it is 'high'"),
        ({"prompt": "x", "chosen": ASKED, "rejected": "5"}, "chosen must be a text, or end with a message of the assistant"),
        ({"chosen": [*ASKED, answer("4")], "rejected": [answer("5")]}, "answer different conversations"),
        ({"input": "x", "output_1": "4", "output_2": "5", "label": 0}, "label is which output is better, 1 or 2; got 0"),
        ({"prompt": "x", "response_1": 4, "response_2": "5", "preference_strength": 1}, "response_1 must be text; it is int"),
        ({"prompt": "x", "responses": [{"content": "4", "attributes": [1]}]}, "response 1: attributes must be an object .*; it is list"),
        ({"instruction": "x", "completions": [{"response": "4", "annotations": [1]}]}, "annotations must be an object .*; it is list"),
        ({**pair(), "prompt": None, "conversations": [{"from": ["human"], "value": "x"}]}, "role"),
        ({"prompt": "x", "response_1": "4", "response_2": "5", "preference_strength": float("nan")}, "must be finite"),
        ({**pair(), "chosen_score": 10**400, "rejected_score": 1}, "chosen_score must be a number"),
    ],
)
def test_fields_that_are_not_what_the_layout_says(record: dict, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=sentence):
        read([write_rows(tmp_path / "pairs.jsonl", record)])


@pytest.mark.parametrize("name", ["pairs.jsonl", "pairs.parquet"])
def test_what_is_written_is_read_again(name: str, tmp_path: Path) -> None:
    rated = Answer("4", 3.5, {"correctness": 4.0, "coherence": 2.0}, "small")
    tools = {"tools": [{"name": "add"}]}
    some = [
        Comparison(({"role": "system", "content": "Be brief."}, *ASKED), (rated, Answer("5", 0.25, {"correctness": 0.0}))),
        Comparison((*ASKED,), (Answer("four"), Answer("five"), Answer("six")), best_first=True, values=tools),
    ]
    assert write(tmp_path / name, some) == 2
    found = read([str(tmp_path / name)]).found
    assert [each.identity for each in found] == [each.identity for each in some]


def test_rewards_may_decide_against_the_order_of_a_row(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "pairs.jsonl", WRONG["rewards contradict the order"], pair("six", "seven"))
    contradicting, plain = read([path], by_rewards=True).found
    assert [each.text for each in contradicting.answers] == ["5", "4"] and [each.text for each in plain.answers] == ["six", "seven"]


def test_a_scorer_orders_answers_anew() -> None:
    (found,) = scored([comparison(1, ("a", 2.0), ("bbb", 1.0))], lambda some: [[len(a.text) for a in each.answers] for each in some])
    assert [(each.text, each.reward) for each in found.answers] == [("bbb", 3), ("a", 1)]
    with pytest.raises(DataError, match=r"pairs.jsonl:2: 1 rewards were given for 2 answers"):
        scored([found], lambda some: [[1.0]])


def test_prompts_that_fine_tuning_answered_are_found_whatever_their_spacing() -> None:
    some = [comparison(number, ("a", 2.0), ("b", 1.0)) for number in range(3)]
    told = [[{"role": "user", "content": "What is  the colour\nof 1?"}, answer("red"), *ASKED, answer("4")]]
    assert overlap(some, told).shared == ("pairs.jsonl:2",)
    assert str(overlap(some, told)) == "1 of 3 prompts are among 2 others"


def test_ties_have_nobody_to_prefer_but_their_gap_is_learned() -> None:
    tied = comparison(0, ("a", 1.0), ("b", 1.0))
    assert [each.reason for each in unlike([tied], rewards=False)] == ["no answer is better than another"]
    assert unlike([tied], rewards=True) == [] and tied.pairs == ()
    assert comparison(0, ("a", 1.0), ("b", 1.0), ("c", 0.0)).pairs == ((0, 2), (1, 2))
