"""Prompts and what verifies their answers."""

from pathlib import Path

import pytest
from tests.align.rounds.small import row, write_rows

from amaru.align.rounds import Prompt, read_prompts
from amaru.align.rounds.prompts import chosen, prompt_of
from amaru.errors import DataError


def test_the_share_of_what_is_asked() -> None:
    prompt = prompt_of("p:1", row("sun", "sea"))
    assert [prompt.verified(text) for text in ("Sun and sea", "sun", "hill", "")] == [1.0, 0.5, 0.0, 0.0]
    assert prompt.verified("Sure!\nsun and sea") == 0.5 and prompt.verified("Sure!\nsun and sea", loose=True) == 1.0
    known = Prompt(({"role": "user", "content": "2 + 2?"},), answer="4")
    assert known.verified("It is 4.") == 1.0 and known.verified("It is 14.") == 0.0
    assert Prompt(known.messages).verified("4") is None and not Prompt(known.messages).verifiable


def test_prompts_are_read_in_each_shape_once(tmp_path: Path) -> None:
    rows = [row("sun"), row("sun"), {"messages": [{"role": "user", "content": "2 + 2?"}], "answer": 4}, {"prompt": "hello"}]
    found = read_prompts([str(write_rows(tmp_path / "p.jsonl", rows))])
    assert [(len(each.instructions), each.answer, each.verifiable) for each in found] == [(2, None, True), (0, "4", True), (0, None, False)]
    assert found[2].asked == prompt_of("", {"prompt": " Hello "}).asked != found[0].asked


@pytest.mark.parametrize(
    "record, sentence",
    [
        ({"text": "x"}, "p:7 is no prompt: it needs prompt"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "p:7 ends with an answer"),
        ({"messages": [{"content": "x"}]}, "p:7 is no prompt: a message without a role"),
        ({"prompt": " "}, "p:7 is no prompt: .* nothing asked"),
        ({"prompt": []}, "p:7 is no prompt: it needs prompt"),
        ({"prompt": "x", "answer": " "}, "p:7: the answer that is to be come to is empty"),
        ({"prompt": "x", "instruction_id_list": ["punctuation:no_comma"]}, "p:7: kwargs must be a list; it is NoneType"),
        ({"prompt": "x", "instruction_id_list": ["poetry:rhyme"], "kwargs": [{}]}, "p:7: the instruction 'poetry:rhyme' is not"),
        ({"prompt": "x", "instruction_id_list": ["punctuation:no_comma"], "kwargs": []}, "p:7: it has 1 instructions and 0 sets"),
    ],
)
def test_rows_that_are_no_prompts(record: dict, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        prompt_of("p:7", record)


def test_a_limit_takes_others_with_another_seed_and_all_where_there_are_no_more() -> None:
    some = [prompt_of("", {"prompt": str(number)}) for number in range(20)]
    first, second = ({each.asked for each in chosen(some, 5, f"round {number}")} for number in (1, 2))
    assert len(first) == 5 and first != second
    assert chosen(some, 5, "round 1") == chosen(some[::-1], 5, "round 1")
    assert len(chosen(some, 99, "x")) == 20 == len(chosen(some, None, "x"))
