"""A small tokenizer trained on a few sentences, shared by the data tests."""

import pytest

from amaru.data.tokenizer import Tokenizer

SENTENCES = [f"def f{n}(x):\n    return x + {n}  # añade {n}\n" for n in range(50)]


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(SENTENCES, vocab=300)
