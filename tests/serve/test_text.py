"""Streamed text against decoding everything at once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amaru.data.tokenizer import Tokenizer
from amaru.serve.text import TextStream

TEXTS = [
    "naïve añade 漢字かな 🙂🙃 e\u0301",
    "plain ascii text\n\twith tabs",
    "\N{REPLACEMENT CHARACTER} itself \N{REPLACEMENT CHARACTER}",
    "",
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["a few words of plain ascii text\n"] * 4, vocab=280)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("prompt", ["", "漢", "def f(x):\n "])
def test_pieces_add_up_to_the_text_and_no_character_is_shown_in_halves(tokenizer: Tokenizer, prompt: str, text: str) -> None:
    stream = TextStream(tokenizer, tokenizer.encode(prompt))
    pieces = [stream.add(token) for token in tokenizer.encode(text)]
    assert "".join(pieces) + stream.rest() == text
    if "\N{REPLACEMENT CHARACTER}" not in text:
        assert "".join(pieces) == text  # each character comes with its last byte, none waits for the end


@given(tokens=st.lists(st.integers(2, 279), max_size=30))
def test_any_tokens_add_up_to_their_text_even_where_bytes_are_no_characters(tokenizer: Tokenizer, tokens: list[int]) -> None:
    prompt = tokenizer.encode("prompt ")
    stream = TextStream(tokenizer, prompt)
    streamed = "".join(stream.add(token) for token in tokens) + stream.rest()
    assert "prompt " + streamed == tokenizer.decode(prompt + tokens)
