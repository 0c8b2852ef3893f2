"""Comparisons as tokens: what stands in a row, what is cut, and what is not used."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.align.small import comparison, some, template

from amaru.align.comparisons import Comparison
from amaru.align.rows import ComparisonRows, made_from, pack
from amaru.data.chat import Template
from amaru.data.loader import collate
from amaru.data.packing import IGNORED
from amaru.data.templates import CHATML
from amaru.data.tokenizer import Tokenizer
from amaru.errors import ArtifactError, DataError

TEMPLATE = template()


def test_every_answer_stands_behind_the_prompt_and_ends_with_its_mark() -> None:
    chosen = some(5, answers=4)
    rows = pack(chosen, TEMPLATE, 256)
    batch = collate(rows, [3, 0])
    texts = [answer.text for number in (3, 0) for answer in chosen[number].answers]
    assert len(batch.cu_seqlens) - 1 == len(texts) and [len(each.answers) for each in chosen] == [2, 3, 4, 2, 3]
    for (first, end), text in zip(zip(batch.cu_seqlens, batch.cu_seqlens[1:], strict=False), texts, strict=True):
        targets = batch.targets[first:end]
        said = targets[targets != IGNORED]
        assert TEMPLATE.tokenizer.decode(said.tolist()) == f"{text}<|im_end|>"
        assert TEMPLATE.tokenizer.decode([*batch.ids[first:end].tolist(), said[-1].item()]).endswith(f"assistant\n{text}<|im_end|>")
        assert batch.positions[first] == 0
    assert rows.targets == sum(int((rows.row(index).targets != IGNORED).sum()) for index in range(5))
    assert rows.row_length == max(len(rows.row(index).ids) for index in range(5))


def test_groups_know_who_is_better_and_who_is_best() -> None:
    tied = comparison(0, ("a", 1.0), ("b", 1.0), ("c", 0.0))
    ordered = comparison(1, ("a", None), ("b", None), best_first=True)
    found = pack([tied, ordered], TEMPLATE, 256).groups([1, 0])
    assert found.place.tolist() == [[0, 1, 0], [2, 3, 4]] and found.real.tolist() == [[True, True, False], [True] * 3]
    assert found.better.nonzero().tolist() == [[0, 0, 1], [1, 0, 2], [1, 1, 2]]
    assert found.best.tolist() == [[1, 0, 0], [0.5, 0.5, 0]] and found.worst.tolist() == [[0, 1, 0], [0, 0, 1]]


def test_saved_rows_come_back_and_are_known(tmp_path: Path) -> None:
    given = [*some(4), comparison(9, ("long " * 60, 1.0), ("short", 0.0))]
    rows, origin = pack(given, TEMPLATE, 64), made_from(given, TEMPLATE, 64, "drop")
    rows.save(tmp_path / "some.rows")
    back = ComparisonRows.load(tmp_path / "some.rows", origin)
    assert str(back) == str(rows) and back.dropped == rows.dropped and len(rows.dropped) == 1
    assert torch.equal(collate(back, range(4)).ids, collate(rows, range(4)).ids) and np.array_equal(back.rewards, rows.rewards)
    with pytest.raises(ArtifactError, match="another comparisons"):
        ComparisonRows.load(tmp_path / "some.rows", made_from(given[1:], TEMPLATE, 64, "drop"))


def long_talk(*answers: tuple[str, float]) -> Comparison:
    """A system message, two questions that were answered, and one that is open."""
    talk = [("system", "be brief"), ("user", "what is red?"), ("assistant", "it is a colour"), ("user", "of 7?"), ("assistant", "I say")]
    messages = tuple({"role": role, "content": text} for role, text in [*talk, ("user", "is it red?")])
    return replace(comparison(0, *answers), messages=messages)


def test_cutting_takes_first_turns_and_then_ends_of_answers() -> None:
    talk = long_talk(("it is red", 1.0), ("it is green", 0.0))
    whole = pack([talk], TEMPLATE, 1000)
    length = int(np.diff(whole.starts).max()) - 1
    with pytest.raises(DataError, match=r"1 dropped: too long. pairs.jsonl:1: it has more than"):
        pack([talk], TEMPLATE, length - 1)
    once = pack([talk], TEMPLATE, length - 1, too_long="cut")
    text = TEMPLATE.tokenizer.decode(once.row(0).ids.tolist())
    assert "be brief" in text and "what is red" not in text and "of 7?" in text
    assert once.counts == {"comparisons lost their first turns": 1} and once.row_length < whole.row_length
    bare = pack([comparison(0, ("it is red and blue and green", 1.0), ("grey", 0.0))], TEMPLATE, 1000)
    prompt, longest = int(bare.prompts[0]), int(np.diff(bare.starts).max()) - 1
    cut = pack([comparison(0, ("it is red and blue and green", 1.0), ("grey", 0.0))], TEMPLATE, longest - 1, too_long="cut")
    assert cut.counts == {"answers lost their end": 1} and cut.answer_lengths[0] == bare.answer_lengths[0] - 1
    assert cut.tokens[cut.starts[1] - 1] != bare.tokens[bare.starts[1] - 1]  # the mark of the end is gone
    alike = comparison(0, ("it is red", 1.0), ("it is redder", 0.0))
    for given, room, reason in ((alike, prompt + 1, "equal answers once they are cut"), (alike, prompt - 2, "an empty side")):
        with pytest.raises(DataError, match=rf"1 dropped: {reason}.*pairs.jsonl:1"):
            pack([given], TEMPLATE, room, too_long="cut")


def test_a_tokenizer_without_the_marks_of_the_template_is_refused_with_the_row() -> None:
    plain = Tokenizer.train(["it is red, I say"], vocab=280)
    with pytest.raises(DataError, match=r"pairs.jsonl:1: The chat template writes <\|im_end\|>, <\|im_start\|>, which"):
        pack(some(3), Template(CHATML, plain), 256)
