"""A tokenizer that lost tokens: what stays is encoded as before, what does not falls apart, and nothing is lost."""

import json

import numpy as np
import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers
from tokenizers.processors import TemplateProcessing

from amaru.data.narrow import narrowed, token_uses
from amaru.data.tokenizer import Tokenizer
from amaru.errors import DataError

TEXTS = ["the lower the lowest", "slowly slower", "the newest of the new", "élan ☃"]


def trained(vocab=300):
    return Tokenizer.train(TEXTS * 2, vocab)


def uses_of(tokenizer, rows=0):
    counts = np.bincount([id for text in TEXTS for id in tokenizer.encode(text)], minlength=tokenizer.vocab_size + rows)
    return token_uses(tokenizer, counts, tokenizer.vocab_size + rows)


def test_a_token_is_used_less_than_those_it_is_made_of():
    tokenizer = trained()
    uses, ids = uses_of(tokenizer, rows=3), tokenizer.backend.get_vocab()
    merges = json.loads(tokenizer.backend.to_str())["model"]["merges"]
    assert all(uses[ids[left + right]] < uses[ids[piece]] for left, right in merges for piece in (left, right))
    assert np.isinf(uses).sum() == 256 + 2 and (uses[-3:] == -1).all()  # bytes and the two control tokens; rows of no token


@pytest.mark.parametrize(("kept", "whole"), [(258, 0), (280, 0), (287, 3), (289, 5)])
def test_what_stays_is_encoded_as_before_and_nothing_is_lost(kept, whole):
    tokenizer = trained()
    chosen = np.sort(np.argsort(-uses_of(tokenizer), kind="stable")[:kept])
    smaller = narrowed(tokenizer, chosen.tolist())
    assert smaller.vocab_size == kept and smaller.eos_id == list(chosen).index(tokenizer.eos_id)
    same = 0
    for text in [*TEXTS, "a new text: ∑"]:
        new, old = smaller.encode(text), tokenizer.encode(text)
        assert smaller.decode(new) == text
        if set(old) <= set(chosen.tolist()):
            same += 1
            assert chosen[new].tolist() == old
        else:
            assert len(new) > len(old)
    assert same == whole


def test_what_stands_around_every_text_and_the_list_of_control_tokens_are_renumbered():
    tokenizer = trained()
    tokenizer.backend.post_processor = TemplateProcessing(single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", tokenizer.eos_id)])
    config = json.loads(tokenizer.companions["tokenizer_config.json"]) | {"added_tokens_decoder": {"0": {"content": "<|endoftext|>"}}}
    tokenizer = Tokenizer.of(tokenizer.backend, {"tokenizer_config.json": json.dumps(config)})
    order = [*range(2, 280), 0, 1]
    smaller = narrowed(tokenizer, order)
    assert smaller.encode("the")[0] == smaller.eos_id == 278
    assert list(json.loads(smaller.companions["tokenizer_config.json"])["added_tokens_decoder"]) == ["278"]


def test_tokens_that_others_are_made_of_and_control_tokens_cannot_go():
    tokenizer = trained()
    with pytest.raises(DataError, match=r"control token '<\|endoftext\|>' cannot be dropped"):
        narrowed(tokenizer, list(range(1, 280)))
    left, right = json.loads(tokenizer.backend.to_str())["model"]["merges"][0]
    gone = tokenizer.backend.token_to_id(left)
    with pytest.raises(DataError, match=f"is merged from .*'{right}', of which one is dropped"):
        narrowed(tokenizer, [id for id in range(tokenizer.vocab_size) if id != gone])


def test_other_kinds_of_tokenizers_are_refused():
    backend = Backend(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(DataError, match=r"Only a byte-pair encoding .* this tokenizer is WordLevel"):
        narrowed(Tokenizer.of(backend, {}), [0, 1])
