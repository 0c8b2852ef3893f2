"""Runs of words of evaluation items in texts, against looking for every run in the text as a string."""

import json
import random

import pytest

from amaru.data.contamination import Contamination
from amaru.data.near_duplicates import normal
from amaru.errors import DataError


def shares_a_run(text, item, run):
    words = normal(item).split()
    run = min(run, len(words))
    return any(f" {' '.join(words[first : first + run])} " in f" {normal(text)} " for first in range(len(words) - run + 1))


def test_a_text_is_found_when_it_has_a_run_of_an_item_as_a_string(tmp_path):
    draw = random.Random(0)
    item = [" ".join(draw.choices("abcdefgh", k=length)) for length in (5, 9, 20, 40)]
    file = tmp_path / "items.jsonl"
    file.write_text("".join(json.dumps({"question": text}) + "\n" for text in item))
    contamination = Contamination([file], run=7)
    found = 0
    for _ in range(400):
        text = draw.choices("abcdefgh", k=30)
        if draw.random() < 0.5:
            source = draw.choice(item).split()
            first = draw.randrange(len(source))
            text[10:10] = source[first : first + draw.randrange(4, 10)]
        text, match = ", ".join(text).upper(), contamination.find(", ".join(text).upper())
        holding = [f"items.jsonl:{number}" for number, each in enumerate(item, start=1) if shares_a_run(text, each, 7)]
        assert (match is not None) == bool(holding)
        if match:
            found += 1
            assert match.item in holding and f" {match.words} " in f" {normal(text)} "
    assert 50 < found < 350


def test_every_text_of_a_record_counts_unless_fields_are_named_and_lines_of_a_text_file_are_items(tmp_path):
    record = {"question": "Which of these animals lives in the Andes", "choices": {"text": ["the llama that carries loads over mountains"]}}
    (tmp_path / "mmlu.jsonl").write_text(json.dumps(record) + "\n")
    (tmp_path / "lines.txt").write_text("too short\n\nHow many stones does the river carry?\n")
    everything = Contamination([tmp_path / "mmlu.jsonl", tmp_path / "lines.txt"])
    assert (everything.items, everything.too_short) == (3, 1)
    assert everything.find("It is the Llama that carries loads over mountains.").item == "mmlu.jsonl:1"
    assert everything.find("Say: how many stones does the river carry?").item == "lines.txt:3"
    assert everything.find("too short") is None
    questions = Contamination([tmp_path / "mmlu.jsonl"], fields=["question"])
    assert questions.find("the llama that carries loads over mountains") is None


def test_a_file_in_which_nothing_is_looked_for_is_an_error(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"question": "too short", "n": 1}\n')
    with pytest.raises(DataError, match=r"a\.jsonl has no item of 5 words or more in answer"):
        Contamination([tmp_path / "a.jsonl"], fields=["answer"])
    with pytest.raises(DataError, match="There is no evaluation set"):
        Contamination([tmp_path / "b.jsonl"])
    (tmp_path / "c.jsonl").write_text("not JSON\n")
    with pytest.raises(DataError, match=r"c\.jsonl:1 is not JSON"):
        Contamination([tmp_path / "c.jsonl"])
