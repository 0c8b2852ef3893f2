"""Recall and copying: what sequences hold, and the scores of a decoder whose only skill is known."""

from random import Random

import pytest
import torch
from tests.eval.small import small_subject

from amaru.errors import ConfigError
from amaru.eval.recall import RecallTask, ordinary, pairs, repeated
from amaru.eval.task import measure
from amaru.nn.batch import Batch


def test_every_key_is_asked_for_once_and_has_its_value() -> None:
    ids, first = pairs(Random(0), range(10, 200), 64)
    held = dict(zip(ids[:first:2], ids[1:first:2], strict=True))
    asked = list(zip(ids[first::2], ids[first + 1 :: 2], strict=True))
    assert len(ids) == 64 and first == 32 and len(held) == 16
    assert dict(asked) == held and [key for key, _ in asked] != list(held)


def test_a_copy_is_the_same_again() -> None:
    ids, first = repeated(Random(0), range(10, 200), 31)
    assert len(ids) == 30 and ids[:15] == ids[15:] and first == 16


@pytest.mark.parametrize(("name", "asked"), [("recall", slice(16, None, 2)), ("copy", slice(16, None))])
def test_scores_are_those_of_the_tokens_to_be_recalled(name: str, asked: slice) -> None:
    subject = small_subject()
    task = RecallTask(name, (32,), samples=3)
    result = measure(task, subject)
    for index in range(3):
        make = pairs if name == "recall" else repeated
        ids = make(Random(f"{name} 32 {index} 0"), ordinary(subject.tokenizer), 32).ids
        with torch.no_grad():
            right = subject.decoder(Batch.of([torch.tensor(ids)]))[:-1].argmax(-1) == torch.tensor(ids[1:])
        assert result.items[index].scores["accuracy"].value == pytest.approx(float(right[asked].double().mean()))
    assert list(result.cells) == ["32"]


def test_control_tokens_are_never_drawn() -> None:
    tokenizer = small_subject().tokenizer
    assert tokenizer.eos_id not in ordinary(tokenizer) and len(ordinary(tokenizer)) == tokenizer.vocab_size - 2


def test_more_keys_than_tokens_is_a_sentence() -> None:
    with pytest.raises(ConfigError, match="different keys"):
        measure(RecallTask("recall", (4000,), 1), small_subject())
    with pytest.raises(ConfigError, match="at least 8"):
        RecallTask("recall", (4,), 1)
