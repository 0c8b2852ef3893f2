"""In exact mode an answer is to the bit what it is alone: in a crowd, cut anywhere, late, after reuse, and with guesses."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from tests.models.random_models import (
    random_config,
    random_hymba,
    random_ids,
    random_llama,
    random_model,
    random_moe,
    random_nemotron4,
    random_qwen2,
)
from tests.serve.test_engine import Collected, everything_is_given_back, run
from tests.serve.test_speculation import blurred

from amaru.errors import BackendError
from amaru.models import Decoder, DecoderConfig
from amaru.models.pattern import layers_from_pattern
from amaru.serve import generate
from amaru.serve.config import EngineConfig
from amaru.serve.engine import Engine
from amaru.serve.request import Settings
from amaru.serve.sampler import GREEDY, Sampling


def experts() -> DecoderConfig:
    hybrid = random_config(5, "M-*")
    return replace(hybrid, layers=layers_from_pattern("MEM*-E", dict(zip("M-*", hybrid.layers, strict=True)) | {"E": random_moe(2)}))


FAMILIES: dict[str, Callable[[], DecoderConfig]] = {
    "nemotron_h": lambda: random_config(0, "MM-*-M"),
    "experts": experts,
    "nemotron4": lambda: random_nemotron4(1),
    "llama": lambda: random_llama(1),
    "qwen2": lambda: random_qwen2(2),
    "hymba": lambda: random_hymba(1),
}
ALONE = EngineConfig(memory=2**26, max_running=1, max_tokens=300, chunk_tokens=400, prefix_bytes=0, exact=True)
CROWD = replace(ALONE, max_running=3, chunk_tokens=37)
REUSE = replace(CROWD, prefix_bytes=2**24, prefix_every=16, chunk_tokens=50)
TOKENS = 16
SAMPLED = Sampling(temperature=0.9, top_p=0.9, repetition_penalty=1.1, seed=5)


def cast(decoder: Decoder, dtype: torch.dtype) -> Decoder:
    """As a checkpoint is loaded: what must stay in float32 does."""
    specs = decoder.config.tensors()
    for name, parameter in decoder.named_parameters():
        parameter.data = parameter.data if specs[name][0].keep_fp32 else parameter.data.to(dtype)
    return decoder


@pytest.fixture(scope="module", params=[*FAMILIES, "nemotron_h in bfloat16", "experts in bfloat16", "hymba in bfloat16"])
def decoder(request: pytest.FixtureRequest) -> Decoder:
    family, _, half = request.param.partition(" in ")
    return cast(random_model(FAMILIES[family](), 0), torch.bfloat16 if half else torch.float32)


@pytest.fixture(scope="module")
def requests(decoder: Decoder) -> list[tuple[list[int], Settings]]:
    prompts = [ids.tolist() for ids in random_ids(decoder.config.vocab, 33, 1, 90, 50)]
    kinds = [Settings(max_tokens=TOKENS, logprobs=3, sampling=sampling) for sampling in (GREEDY, SAMPLED)]
    return [(prompt, kinds[index % 2]) for index, prompt in enumerate(prompts)]


def bits(told: list[Collected]) -> list[list[tuple[int, float | None, tuple[tuple[int, float], ...]]]]:
    """Tokens with their log-probabilities, every digit of them."""
    return [[(token.id, token.logprob, token.top) for event in each.events for token in event.tokens] for each in told]


@pytest.fixture(scope="module")
def alone(decoder: Decoder, requests: list[tuple[list[int], Settings]]) -> list:
    told = [run(Engine(decoder, config=ALONE), each)[0] for each in requests]
    assert all(len(each.tokens) == TOKENS for each in told)
    return bits(told)


def test_company_and_waiting_change_no_bit(decoder: Decoder, requests: list, alone: list) -> None:
    for config in (CROWD, replace(CROWD, chunk_tokens=11, max_running=2)):
        engine = Engine(decoder, config=config)
        assert bits(run(engine, *requests)) == alone
        assert everything_is_given_back(engine)


def test_whoever_comes_while_others_run_gets_the_same_bits(decoder: Decoder, requests: list, alone: list) -> None:
    engine, told = Engine(decoder, config=CROWD), [Collected() for _ in requests]
    for (prompt, settings), each in zip(requests, told, strict=True):
        engine.submit(prompt, settings, each)
        for _ in range(5):
            engine.step()
    while engine.step():
        pass
    assert bits(told) == alone


def test_reuse_changes_no_bit(decoder: Decoder, requests: list, alone: list) -> None:
    """The same again, and then whole conversations: prompts that go on where an answer ended."""
    engine = Engine(decoder, config=REUSE)
    assert [bits(run(engine, *requests)) for _ in range(2)] == [alone, alone]
    ends = [[token for token, *_ in answer] + [1, 2, 3] for answer in alone]
    longer = [(prompt + end, settings) for (prompt, settings), end in zip(requests, ends, strict=True)]
    before = engine.stats().reused_tokens
    warm = bits(run(engine, *longer))
    assert engine.stats().reused_tokens - before > 0.8 * sum(len(prompt) for prompt, _ in longer)
    assert warm == bits([run(Engine(decoder, config=ALONE), each)[0] for each in longer])


@pytest.mark.parametrize("source", ["lookup", "draft"])
def test_guesses_change_no_bit(decoder: Decoder, requests: list, alone: list, source: str) -> None:
    draft = blurred(decoder, 0.02) if source == "draft" else None
    engine = Engine(decoder, config=replace(REUSE, speculate=source, draft_memory=2**24), draft=draft)
    assert [bits(run(engine, *requests)) for _ in range(2)] == [alone, alone]
    assert engine.stats().drafted_tokens > engine.stats().accepted_tokens >= (source == "draft")
    assert everything_is_given_back(engine)


def test_generate_can_be_asked_for_it(decoder: Decoder, requests: list, alone: list) -> None:
    results = generate(decoder, [prompt for prompt, _ in requests], [settings for _, settings in requests], exact=True)
    assert [[(token.id, token.logprob, token.top) for token in result.told] for result in results] == alone


@pytest.mark.parametrize("family", FAMILIES)
def test_what_cannot_be_exact_is_refused_at_once(family: str) -> None:
    with pytest.raises(BackendError, match="depends on the batch"):
        Engine(random_model(FAMILIES[family](), 0).double(), config=ALONE)
