"""Rows that are copies of others or of evaluation items: left out, with what they are copies of, whatever order they come in."""

import asyncio
import json

import pytest
from tests.synth.recipes import bound, run

from amaru.data.near_duplicates import NearDuplicates
from amaru.errors import ConfigError, DataError
from amaru.synth.row import DROPPED, Matched
from amaru.synth.store import Store

NOBODY = "http://127.0.0.1:1/v1"
TEXTS = [
    "How do llamas carry loads over the mountains of Peru?",
    "How do llamas carry heavy loads over the mountains of Peru?",
    "Why is the sky blue in the morning and red in the evening?",
    "how do  llamas carry loads over the mountains of peru?",
    "How do llamas carry heavy loads over the mountains of Peru?",
]


def seeds(texts):
    return {"name": "seeds", "kind": "seeds", "rows": [{"text": text} for text in texts]}


def test_a_row_that_is_left_out_names_the_row_that_stays(tmp_path):
    recipe = bound(NOBODY, [seeds(TEXTS), {"name": "distinct", "kind": "unique", "column": "text", "near": 0.7}])
    tallies, rows = asyncio.run(run(recipe, tmp_path / "s.sqlite"))
    assert [row["text"] for row in rows] == [TEXTS[0], TEXTS[2]]
    assert tallies["distinct"].dropped == {"nearly equal to another row": 1, "equal to another row": 2}
    with Store(tmp_path / "s.sqlite") as store:
        first, near, _, same, again = store.finished(recipe.unit(0, "start"))
        like = NearDuplicates(0.7)
        like.add("", TEXTS[0])
        similarity = like.add("", TEXTS[1]).similarity
        assert 0.7 <= similarity < 1
        assert store.outcome(recipe.unit(1, near.key)) == (DROPPED, "nearly equal to another row")
        assert store.matched(recipe.unit(1, near.key)) == store.matched(recipe.unit(1, again.key)) == Matched(first.key, similarity)
        assert store.matched(recipe.unit(1, same.key)) == Matched(first.key, 1.0)
        assert store.matched(recipe.unit(1, first.key)) is None


def test_rows_with_words_of_an_evaluation_set_are_left_out_and_name_the_item(tmp_path):
    items = ["Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May.", "What is the capital?"]
    (tmp_path / "gsm8k.jsonl").write_text("".join(json.dumps({"question": item, "answer": "72"}) + "\n" for item in items))
    rows = [
        {"text": "Rewrite: Natalia sold clips to 48 of her friends in April and then she sold none."},
        {"text": "Natalia sold clips in April.", "turns": [{"content": "so " + items[0].upper()}]},
        {"text": "Natalia sold clips in April.", "turns": []},
    ]
    step = {"name": "clean", "kind": "decontaminate", "columns": ["text", "turns"], "against": ["gsm8k.jsonl"]}
    steps = [{"name": "seeds", "kind": "seeds", "rows": [{"turns": [], **row} for row in rows]}, step]
    recipe = bound(NOBODY, steps, directory=tmp_path)
    for _ in range(2):  # made, then kept from before
        tallies, left = asyncio.run(run(recipe, tmp_path / "s.sqlite"))
        assert tallies["clean"].dropped == {"has words of gsm8k.jsonl": 2} and len(left) == 1
    with Store(tmp_path / "s.sqlite") as store:
        made = store.finished(recipe.unit(0, "start"))
        words = "natalia sold clips to 48 of her friends in april and then she"
        assert store.matched(recipe.unit(1, made[0].key)) == Matched("gsm8k.jsonl:1", None, words)
    with (tmp_path / "gsm8k.jsonl").open("a") as file:
        file.write(json.dumps({"question": "Natalia sold clips in April."}) + "\n")
    tallies, left = asyncio.run(run(bound(NOBODY, steps, directory=tmp_path), tmp_path / "s.sqlite"))
    assert not left  # another set is another step


def test_what_cannot_be_looked_for_is_an_error(tmp_path):
    step = {"name": "clean", "kind": "decontaminate", "columns": ["answer"], "against": ["gsm8k.jsonl"]}
    with pytest.raises(DataError, match="There is no evaluation set"):
        bound(NOBODY, [seeds(TEXTS), step], directory=tmp_path)
    (tmp_path / "gsm8k.jsonl").write_text(json.dumps({"question": "Natalia sold clips in April."}) + "\n")
    with pytest.raises(ConfigError, match="Step clean reads column answer, which no step before makes; there is text"):
        bound(NOBODY, [seeds(TEXTS[:1]), step], directory=tmp_path)
    with pytest.raises(ConfigError, match="bands"):
        bound(NOBODY, [seeds(TEXTS), {"name": "distinct", "kind": "unique", "column": "text", "near": 0.7, "bands": 5}])
