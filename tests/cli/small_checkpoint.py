"""A tiny checkpoint with a tokenizer, for verbs that read one."""

from dataclasses import replace
from pathlib import Path

from tests.models.random_models import random_config, random_model

from amaru.data.tokenizer import Tokenizer
from amaru.models.checkpoint import save

TEXT = "def f(x):\n    return x + 1  # añade\n" * 5


def small_checkpoint(path: Path, seed: int = 0) -> Path:
    tokenizer = Tokenizer.train([TEXT], vocab=290)
    config = replace(random_config(0, "M-*-M"), vocab=tokenizer.vocab_size)
    save(random_model(config, seed), path, tokenizer)
    return path
