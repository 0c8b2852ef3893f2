"""Answers held to a schema: an independent validator accepts every one of them, from a model that has learnt nothing."""

import json
import sys
import threading
from dataclasses import replace
from typing import Any

import jsonschema_rs
import pytest
import torch
from tests.models.random_models import random_config, random_model

from amaru.data.tokenizer import Tokenizer
from amaru.errors import BackendError, ConfigError
from amaru.models import Decoder
from amaru.serve.config import EngineConfig
from amaru.serve.constraint import Constraints
from amaru.serve.engine import Engine
from amaru.serve.generate import Generation, generate
from amaru.serve.request import Settings
from amaru.serve.sampler import GREEDY, Sampling

WORD = {"type": "string", "maxLength": 8}
POINT = {
    "type": "object",
    "properties": {"x": {"type": "integer", "minimum": -5, "maximum": 70}, "y": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["x", "y"],
    "additionalProperties": False,
}
# All bounded, so that a model that never wants to end ends.
BOUNDED: dict[str, dict[str, Any]] = {
    "enum": {"enum": ["red", 3, None, {"a": [True]}]},
    "const": {"const": {"name": "fixed é", "n": 1.5}},
    "boolean": {"type": "boolean"},
    "integer": {"type": "integer", "minimum": 10, "maximum": 250},
    "word": WORD,
    "pattern": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"},
    "date": {"type": "string", "format": "date"},
    "list": {"type": "array", "items": WORD, "minItems": 2, "maxItems": 4},
    "nested": {
        "type": "object",
        "properties": {"line": {"type": "array", "items": POINT, "minItems": 1, "maxItems": 3}, "kind": {"enum": ["open", "closed"]}},
        "required": ["line", "kind"],
        "additionalProperties": False,
    },
    "choice": {"anyOf": [POINT, {"type": "array", "prefixItems": [WORD, {"type": "null"}], "items": False, "minItems": 2}]},
    "reference": {
        "$defs": {"leaf": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2}},
        "type": "object",
        "properties": {"left": {"$ref": "#/$defs/leaf"}, "right": {"$ref": "#/$defs/leaf"}},
        "required": ["left", "right"],
        "additionalProperties": False,
    },
}
NUMBERS = {"type": "array", "items": {"type": "number"}, "minItems": 1, "maxItems": 3}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    text = ['{"x": 12, "y": 3, "name": "the line", "kind": "open"}', "[1.5, true, false, null]"]
    return Tokenizer.train(text, 300)


@pytest.fixture(scope="module")
def decoder(tokenizer: Tokenizer) -> Decoder:
    return random_model(replace(random_config(0, "M-*"), vocab=tokenizer.vocab_size + 13), 0)  # more rows than the tokenizer has tokens


def valid(schema: dict[str, Any], text: str) -> bool:
    """1e999 is a number of JSON, though not one of Python's floats."""
    read = json.loads(text, parse_float=lambda digits: max(-1e300, min(float(digits), 1e300)))
    return jsonschema_rs.is_valid(schema, read)


def answers(decoder: Decoder, tokenizer: Tokenizer, settings: list[Settings]) -> list[Generation]:
    prompts = [tokenizer.encode(f"answer {index}:") for index in range(len(settings))]
    return generate(decoder, prompts, settings, tokenizer=tokenizer)


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(temperature=1.0, top_p=1, seed=5), Sampling(temperature=2.0, top_k=3, seed=1)])
def test_every_answer_validates(decoder: Decoder, tokenizer: Tokenizer, sampling: Sampling) -> None:
    settings = [Settings(max_tokens=1500, schema=schema, sampling=sampling) for schema in BOUNDED.values()]
    for schema, answer in zip(BOUNDED.values(), answers(decoder, tokenizer, settings), strict=True):
        assert answer.finish == "stop"
        assert valid(schema, answer.text)


@pytest.mark.parametrize("schema", [{}, {"type": "object"}, NUMBERS, {"type": ["object", "null"]}], ids=str)
def test_answers_of_any_length_validate_when_they_stop(decoder: Decoder, tokenizer: Tokenizer, schema: dict[str, Any]) -> None:
    settings = [Settings(max_tokens=400, schema=schema, sampling=Sampling(temperature=1.0, top_p=1, seed=seed)) for seed in range(12)]
    whole = [answer for answer in answers(decoder, tokenizer, settings) if answer.finish == "stop"]
    assert len(whole) >= 4
    for answer in whole:
        assert valid(schema or {"type": "object"}, answer.text)


def test_an_answer_cut_at_its_length_says_so(decoder: Decoder, tokenizer: Tokenizer) -> None:
    (answer,) = answers(decoder, tokenizer, [Settings(max_tokens=4, schema=BOUNDED["nested"], sampling=GREEDY)])
    assert (answer.finish, len(answer.tokens)) == ("length", 4)


def test_penalties_and_company_change_nothing_about_validity(decoder: Decoder, tokenizer: Tokenizer) -> None:
    harsh = Sampling(temperature=1.0, repetition_penalty=5, frequency_penalty=2, seed=2)
    kinds = [Settings(max_tokens=900, schema=POINT, sampling=harsh), Settings(max_tokens=20, sampling=GREEDY)]
    held, free = answers(decoder, tokenizer, kinds)
    assert valid(POINT, held.text)
    alone = generate(decoder, [free.prompt], kinds[1], tokenizer=tokenizer)[0]
    assert free.tokens == alone.tokens


def test_a_least_length_keeps_a_number_going_but_never_breaks_it(decoder: Decoder, tokenizer: Tokenizer) -> None:
    integer, stop = {"type": "integer"}, (tokenizer.eos_id,)
    kinds = [Settings(max_tokens=60, min_tokens=12, stop=stop, schema=schema, sampling=GREEDY) for schema in (integer, {"const": 7})]
    long, short = answers(decoder, tokenizer, kinds)
    assert len(long.tokens) >= 12 and isinstance(json.loads(long.text), int)
    assert (short.text, short.finish) == ("7", "stop")


def test_a_stop_token_ends_only_what_is_whole(decoder: Decoder, tokenizer: Tokenizer) -> None:
    stop = tuple(tokenizer.backend.token_to_id(token) for token in "x0123456789")  # tokens that the answer itself could hold
    settings = Settings(max_tokens=900, stop=stop, schema=WORD)
    drawn = [replace(settings, sampling=Sampling(temperature=1.5, top_p=1, seed=seed)) for seed in range(6)]
    for answer in answers(decoder, tokenizer, drawn):
        assert answer.finish == "stop" and not set(stop) & set(answer.tokens)
        assert valid(WORD, answer.text)


def test_the_thread_that_submits_need_not_be_the_one_that_runs(decoder: Decoder, tokenizer: Tokenizer) -> None:
    engine, done, texts = Engine(decoder, tokenizer, EngineConfig(memory=2**26, max_tokens=400)), threading.Event(), []

    def collect(_: object, event: Any) -> None:
        texts.append(event.text)
        if event.finish:
            done.set()

    thread = threading.Thread(target=engine.run)
    thread.start()
    engine.submit(tokenizer.encode("go"), Settings(max_tokens=300, schema=BOUNDED["pattern"], sampling=GREEDY), collect)
    assert done.wait(30)
    engine.stop()
    thread.join()
    assert valid(BOUNDED["pattern"], "".join(texts))


def deep(levels: int) -> dict[str, Any]:
    return {"type": "array", "items": deep(levels - 1)} if levels else {}


UNREADABLE = [
    {"type": "colour"},
    {"type": "array", "uniqueItems": True},
    {"not": {}, "x-guidance": {"lenient": True}},
    {"$ref": "http://example.com/schema.json"},
    {"type": "integer", "minimum": 5, "maximum": 3},
    {"const": float("nan")},
    deep(700),
]


@pytest.mark.parametrize("schema", UNREADABLE, ids=lambda schema: str(schema)[:40])
def test_a_schema_that_cannot_be_kept_to_is_refused_before_anything_runs(
    decoder: Decoder, tokenizer: Tokenizer, schema: dict[str, Any]
) -> None:
    engine = Engine(decoder, tokenizer, EngineConfig(memory=2**26, max_tokens=100))
    with pytest.raises(ConfigError, match="schema"):
        engine.submit([5], Settings(max_tokens=9, schema=schema), lambda handle, event: None)
    assert engine.stats().waiting == 0


def test_a_schema_needs_a_tokenizer_and_no_stop_strings(decoder: Decoder) -> None:
    with pytest.raises(ConfigError, match="no tokenizer"):
        generate(decoder, [[5]], Settings(schema={}))
    with pytest.raises(ConfigError, match="stop_strings"):
        Settings(schema={}, stop_strings=("}",))


def test_without_the_library_the_extra_is_named(decoder: Decoder, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(BackendError, match=r"amaru\[serve\]"):
        generate(decoder, [[5]], Settings(schema={}), tokenizer=tokenizer)


def test_a_vocabulary_that_lacks_the_next_byte_ends_that_request_alone(tokenizer: Tokenizer) -> None:
    allowed = Constraints(tokenizer, vocab=300).of({"const": "é"}, ()).allowed()
    small = int(allowed.nonzero().min())  # the model's rows end before the quotation mark
    with pytest.raises(ConfigError, match="no token"):
        Constraints(tokenizer, vocab=small).of({"const": "é"}, ()).allowed()


def test_the_mask_is_what_each_token_alone_would_be(tokenizer: Tokenizer) -> None:
    """Of an enum, a token may come exactly if its text begins one of the values."""
    constraint = Constraints(tokenizer, vocab=tokenizer.vocab_size).of({"enum": ["open", "closed"]}, ())
    texts = [tokenizer.decode([token]) for token in range(tokenizer.vocab_size)]
    expected = [any(value.startswith(text) for value in ('"open"', '"closed"')) and token > 1 for token, text in enumerate(texts)]
    assert torch.equal(constraint.allowed(), torch.tensor(expected))
