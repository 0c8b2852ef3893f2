"""A tiny random hybrid with a tokenizer, as the subject of tasks."""

from dataclasses import replace
from functools import cache

from tests.models.random_models import random_config, random_model

from amaru.data.tokenizer import Tokenizer
from amaru.eval.subject import Subject

TEXT = "Question: which number comes after one? Answer: two. The pass key is 1234567, and VAR_A = 89.\n" * 4


@cache
def small_subject(seed: int = 0) -> Subject:
    tokenizer = Tokenizer.train([TEXT], vocab=300)
    config = replace(random_config(0, "M-*-M"), vocab=tokenizer.vocab_size)
    return Subject(random_model(config, seed), tokenizer, f"random {seed}")
