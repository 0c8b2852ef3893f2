"""Ten turns with a model that has learnt something: what is reused, and that nothing else changes; guesses of two kinds, 20 of 20."""

import copy
import random
from dataclasses import replace

import pytest
import torch
from tests.serve.teaching import taught
from tests.serve.test_engine import Collected, everything_is_given_back, run
from tests.serve.test_exact import cast
from tests.serve.test_speculation import blurred

from amaru.models import Decoder, DecoderConfig
from amaru.models.pattern import layers_from_pattern
from amaru.nn import MLP, Attention, Batch, Mamba2
from amaru.serve.config import EngineConfig
from amaru.serve.engine import Engine
from amaru.serve.request import Settings
from amaru.serve.sampler import GREEDY

VOCAB, WORDS, SENTENCES = 64, 6, 18
POOL = EngineConfig(memory=2**24, prefix_bytes=2**24, draft_memory=2**24, draft_step=60)
CONFIG = replace(POOL, max_running=8, max_tokens=1200, chunk_tokens=128, prefix_every=64)
ANSWER = Settings(max_tokens=72, logprobs=2, sampling=GREEDY)


def tale() -> list[int]:
    """Sentences that follow one another in a circle: 108 words until it begins anew."""
    draw = random.Random(0)
    return [draw.randrange(VOCAB) for _ in range(SENTENCES * WORDS)]


def told_from(place: int, count: int) -> list[int]:
    whole = tale()
    return [whole[(place + index) % len(whole)] for index in range(count)]


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    layers = {"M": Mamba2(heads=4, channels=8, groups=2, state=16), "*": Attention(query_heads=4, kv_heads=2, channels=8)}
    stack = layers_from_pattern("M-*-", layers | {"-": MLP(ffn=96)})
    decoder, draw = Decoder(DecoderConfig(vocab=VOCAB, hidden=48, layers=stack)).initialise(0), random.Random(1)
    batches = (Batch.of([torch.tensor(told_from(draw.randrange(108), 60)) for _ in range(6)]) for _ in range(60))
    return taught(decoder, batches, loss_at_most=0.5)


def values(told: Collected) -> list[float]:
    return [value for event in told.events for token in event.tokens for _, value in token.top]


def repeats(tokens: list[int]) -> bool:
    runs = [tuple(tokens[index : index + 5]) for index in range(len(tokens) - 4)]
    return len(set(runs)) < len(runs)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("speculate", ["off", "draft"])
def test_ten_turns_reuse_most_of_their_prompts_and_say_what_a_cold_run_says(decoder: Decoder, exact: bool, speculate: str) -> None:
    config = replace(CONFIG, exact=exact)
    draft = blurred(decoder, 0.05) if speculate == "draft" else None
    engine = Engine(decoder, config=replace(config, speculate=speculate), draft=draft)
    history = told_from(3, 20)
    for turn in range(10):
        history = history + told_from(7 * turn, 4)
        warm = run(engine, (history, ANSWER))[0]
        cold = run(Engine(decoder, config=replace(config, prefix_bytes=0)), (history, ANSWER))[0]
        assert warm.tokens == cold.tokens and len(warm.tokens) == 72
        assert not repeats(warm.tokens)
        assert values(warm) == (values(cold) if exact else pytest.approx(values(cold), abs=1e-4))
        history = history + warm.tokens
    stats = engine.stats()
    assert stats.reused_tokens / stats.prompt_tokens > 0.9
    assert everything_is_given_back(engine)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("source", ["lookup", "draft"])
def test_twenty_of_twenty_greedy_answers_are_those_without_guesses(decoder: Decoder, source: str, dtype: torch.dtype) -> None:
    """In bfloat16 in exact mode, where that is promised, to the bit; in float32 as it comes."""
    model = cast(copy.deepcopy(decoder), dtype)
    config = replace(CONFIG, exact=dtype is torch.bfloat16)
    prompts = [told_from(11 * number, 40 + 6 * number) for number in range(20)]
    draft = blurred(model, 0.4) if source == "draft" else None
    guessing, plain = Engine(model, config=replace(config, speculate=source), draft=draft), Engine(model, config=config)
    ours, theirs = (run(engine, *((prompt, ANSWER) for prompt in prompts)) for engine in (guessing, plain))
    assert [each.tokens for each in ours] == [each.tokens for each in theirs]
    assert all(len(each.tokens) == 72 and not repeats(each.tokens) for each in ours)
    if config.exact:
        assert [values(each) for each in ours] == [values(each) for each in theirs]
    stats = guessing.stats()
    assert 0 < stats.accepted_tokens < stats.drafted_tokens + (source == "lookup") and stats.steps < plain.stats().steps


def test_a_draft_model_goes_on_from_what_it_knows(decoder: Decoder) -> None:
    """Of a prompt that it knows it reads what is new."""
    draft, read = blurred(decoder, 0.05), []
    through = draft.embed
    draft.embed = lambda ids: (read.append(len(ids)), through(ids))[1]  # type: ignore[method-assign]
    engine = Engine(decoder, config=replace(CONFIG, speculate="draft"), draft=draft)
    history = told_from(0, 500)
    for turn in range(2):
        read.clear()
        told = run(engine, (history, ANSWER))[0]
        history = history + told.tokens + told_from(5 * turn, 4)
        assert (sum(read) > 500) == (turn == 0)
