"""Likelihoods of endings against every sequence run by itself, and texts cut into context and continuation as lm-eval cuts them."""

import pytest
import torch
from tests.eval.small import small_subject

from amaru.errors import DataError
from amaru.eval.likelihood import Ending, likelihoods
from amaru.nn.batch import Batch

ENDINGS = [
    Ending((5, 9, 30, 7), 3),
    Ending((5, 9, 30, 8), 3),  # differs from the first in its last token only
    Ending((5, 9, 30, 8, 44, 3, 17), 1),
    Ending((11, 12), 1),
    Ending((5, 9, 30, 7), 2),
]


@pytest.mark.parametrize("tokens", [1, 9, 8192])
def test_each_is_what_the_sequence_gives_alone(tokens: int) -> None:
    decoder = small_subject().decoder
    found = dict(likelihoods(decoder, ENDINGS, tokens))
    assert found.keys() == set(range(len(ENDINGS)))
    for index, (ids, first) in enumerate(ENDINGS):
        with torch.no_grad():
            logits = decoder(Batch.of([torch.tensor(ids)])).double()[first - 1 : -1]
        wanted = torch.tensor(ids[first:])
        torch.testing.assert_close(found[index].logprobs, logits.log_softmax(-1)[torch.arange(len(wanted)), wanted], atol=2e-5, rtol=0)
        assert found[index].greedy.tolist() == (logits.argmax(-1) == wanted).tolist()


def test_what_cannot_be_measured_is_a_sentence() -> None:
    decoder = small_subject().decoder
    for ids, first, told in (((5, 6), 2, "need a token"), ((5, 6), 0, "need a token"), ((5, 10**6), 1, "another tokenizer")):
        with pytest.raises(DataError, match=told):
            list(likelihoods(decoder, [Ending(ids, first)]))


def test_spaces_before_an_answer_are_tokens_of_the_answer() -> None:
    subject = small_subject()
    encode, decode = subject.tokenizer.encode, subject.tokenizer.decode
    for context, continuation in (("Answer:", " two"), ("Answer: ", "two"), ("Answer:\n", "two")):
        ids, first = subject.ending(context, continuation)
        assert list(ids) == encode(context + continuation)
        assert decode(list(ids[:first])) == "Answer:" and decode(list(ids[first:])) == (context + continuation)[7:]


def test_before_a_text_without_context_stands_the_end_of_text() -> None:
    subject = small_subject()
    assert subject.ending("", "two") == Ending((subject.tokenizer.eos_id, *subject.tokenizer.encode("two")), 1)
