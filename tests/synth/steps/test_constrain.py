"""Random instructions: rows carry what checks them, and what checks them agrees with what the text says."""

import re

import pytest
from tests.synth.steps.through import through

from amaru.instructions import follows, instructions_of

ROWS = [{"prompt": f"Tell me about river number {number}.", "answer": "It is long."} for number in range(40)]
PLAIN = ["punctuation:no_comma", "length_constraints:exact_words", "startend:last_word", "detectable_format:title"]
PLAIN += ["keywords:exact_frequency"]


def obeying(text):
    """An answer by somebody who reads the text alone, and one that does what it forbids or lacks what it wants."""
    if found := re.search(r"exactly (\d+) words|has (\d+) words", text):
        count = int(found[1] or found[2])
        return " ".join(["word"] * count), " ".join(["word"] * (count + 1))
    if found := re.search(r"word (\w+) exactly (\d+) times|(\w+) has to occur (\d+) times", text):
        word, count = found[1] or found[3], int(found[2] or found[4])
        return " ".join([word] * count), " ".join([word] * (count - 1))
    if found := re.search(r"(?:End with the word|last word is) (\w+)", text):
        return f"It ends with {found[1]}.", "It ends otherwise."
    if "<<" in text:
        return "<<Rivers>>\nThey flow.", "They flow."
    assert "comma" in text
    return "They flow and flow.", "They flow, and flow."


def test_the_checks_in_a_row_agree_with_its_text(tmp_path):
    rows, _, server, _ = through(tmp_path, ROWS, {"kind": "constrain", "of": "prompt", "column": "prompt", "kinds": PLAIN})
    assert server.requests == 0 and {row["instruction_id_list"][0] for row in rows} == set(PLAIN)
    for row, before in zip(rows, ROWS, strict=True):
        assert before["prompt"] in row["prompt"] != before["prompt"]
        good, bad = obeying(row["prompt"])
        assert follows(good, instructions_of(row)) and not follows(bad, instructions_of(row)), row


def test_what_is_drawn_follows_from_the_seed_and_the_row_alone(tmp_path):
    step = {"kind": "constrain", "counts": [1, 2, 3]}
    first, again, turned, other = (
        through(tmp_path / name, rows, step, seed=seed)[0]
        for name, rows, seed in (("a", ROWS, 0), ("b", ROWS, 0), ("c", ROWS[::-1], 0), ("d", ROWS, 1))
    )
    assert first == again == turned[::-1] != other
    assert {len(row["kwargs"]) for row in first} == {1, 2, 3}


@pytest.mark.parametrize("turn", ["later", "revise"])
def test_instructions_for_later_turns_and_for_the_answer_again(tmp_path, turn):
    rows, _, _, _ = through(tmp_path, ROWS[:5], {"kind": "constrain", "turn": turn})
    for row, before in zip(rows, ROWS[:5], strict=True):
        *earlier, last = row["prompt"]
        assert last["role"] == "user" and all("repeat_prompt" not in kind for kind in row["instruction_id_list"])
        if turn == "later":
            assert not earlier and last["content"].endswith(f"\n\n{before['prompt']}")
        else:
            assert earlier == [{"role": "user", "content": before["prompt"]}, {"role": "assistant", "content": "It is long."}]
            assert before["prompt"] not in last["content"]


def test_answers_are_checked_by_what_their_row_carries(tmp_path):
    rows = [{"prompt": "x", "answer": "one, two", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}]
    rows.append({**rows[0], "answer": "one two"})
    said = [{"role": "user", "content": "a, b"}, {"role": "assistant", "content": "yes"}, {"role": "assistant", "content": "no, no"}]
    rows += [{**rows[0], "answer": said[:2]}, {**rows[0], "answer": said}, {"prompt": "x", "answer": "anything"}]
    made, _, _, _ = through(tmp_path, rows, {"kind": "verify", "by": "instructions"})
    assert [row["verified"] for row in made] == [False, True, True, False, None]
    wrong = [{**rows[0], "instruction_id_list": ["punctuation:none"]}]
    _, tallies, _, _ = through(tmp_path / "b", wrong, {"kind": "verify", "by": "instructions"})
    assert "cannot be checked: the instruction 'punctuation:none'" in next(iter(tallies["step0"].failed))
