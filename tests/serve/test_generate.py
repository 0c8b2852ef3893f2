"""Generation against repeated full forwards without any state, alone and in company."""

import pytest
import torch
from tests.models.random_models import random_config, random_ids, random_model

from amaru.errors import ConfigError
from amaru.models import Decoder
from amaru.nn import Batch
from amaru.serve.generate import generate
from amaru.serve.request import Event, Settings
from amaru.serve.rows import Row
from amaru.serve.sampler import GREEDY, Sampler, Sampling


@pytest.fixture(params=[(0, "MM-*-M"), (1, "-M**M*-")], ids=lambda case: case[1])
def decoder(request: pytest.FixtureRequest) -> Decoder:
    seed, pattern = request.param
    return random_model(random_config(seed, pattern), seed)


@pytest.fixture
def prompts(decoder: Decoder) -> list[list[int]]:
    return [ids.tolist() for ids in random_ids(decoder.config.vocab, 33, 1, 12, 50)]


@torch.no_grad()
def by_full_forwards(decoder: Decoder, prompt: list[int], settings: Settings) -> list[int]:
    """The definition: run everything again for every token."""
    ids, sampler = list(prompt), Sampler(settings.sampling)
    while len(ids) < len(prompt) + settings.max_tokens:
        token = sampler(Row.alone(decoder(Batch.of([torch.tensor(ids)]))[-1], settings.sampling.temperature))
        if token in settings.stop:
            break
        ids.append(token)
    return ids[len(prompt) :]


def tokens_of(decoder: Decoder, prompts: list[list[int]], settings: Settings | list[Settings], **options: int) -> list[list[int]]:
    return [result.tokens for result in generate(decoder, prompts, settings, **options)]  # type: ignore[arg-type]


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(temperature=1.0, top_p=0.9, top_k=20, seed=3)], ids=["greedy", "sampled"])
@pytest.mark.parametrize("chunk_tokens", [2048, 7, 1])
def test_a_batch_of_different_lengths_is_each_alone_by_full_forwards(
    decoder: Decoder, prompts: list[list[int]], sampling: Sampling, chunk_tokens: int
) -> None:
    settings = Settings(max_tokens=15, sampling=sampling)
    expected = [by_full_forwards(decoder, prompt, settings) for prompt in prompts]
    assert tokens_of(decoder, prompts, settings, chunk_tokens=chunk_tokens) == expected
    assert [tokens_of(decoder, [prompt], settings)[0] for prompt in prompts] == expected


def test_each_prompt_may_have_its_own_settings_and_leaves_when_it_is_done(decoder: Decoder, prompts: list[list[int]]) -> None:
    each = [Settings(max_tokens=count, sampling=Sampling(temperature=1, seed=count)) for count in (3, 9, 1, 20)]
    results = generate(decoder, prompts, each)
    assert [len(result.tokens) for result in results] == [3, 9, 1, 20]
    assert [result.tokens for result in results] == [by_full_forwards(decoder, *pair) for pair in zip(prompts, each, strict=True)]
    assert {result.finish for result in results} == {"length"} and [result.prompt for result in results] == prompts


def test_a_stop_token_ends_its_own_sequence_only_and_is_left_out(decoder: Decoder, prompts: list[list[int]]) -> None:
    free = tokens_of(decoder, prompts, Settings(max_tokens=12, sampling=Sampling(temperature=1, seed=2)))
    stop = free[0][5]
    results = generate(decoder, prompts, Settings(max_tokens=12, stop=(stop,), sampling=Sampling(temperature=1, seed=2)))
    for result, tokens in zip(results, free, strict=True):
        assert result.tokens == (tokens[: tokens.index(stop)] if stop in tokens else tokens)
        assert result.finish == ("stop" if stop in tokens else "length")
    assert results[0].finish == "stop"


def test_tokens_are_told_as_they_come_and_in_order(decoder: Decoder, prompts: list[list[int]]) -> None:
    told: list[tuple[int, int]] = []

    def tell(index: int, event: Event) -> None:
        told.extend((index, token.id) for token in event.tokens)

    results = generate(decoder, prompts, Settings(max_tokens=6), tell)
    for index, result in enumerate(results):
        assert [token for at, token in told if at == index] == result.tokens
    assert {index for index, _ in told[:4]} == {0, 1, 2, 3}  # all of them decode together


def test_the_same_seed_gives_the_same_text_and_another_another(decoder: Decoder, prompts: list[list[int]]) -> None:
    first, second, third = (
        tokens_of(decoder, prompts, Settings(max_tokens=10, sampling=Sampling(temperature=1, top_p=1, seed=seed))) for seed in (1, 1, 2)
    )
    assert first == second != third


def test_weights_are_left_alone_and_no_gradient_is_kept(decoder: Decoder, prompts: list[list[int]]) -> None:
    before = {name: tensor.clone() for name, tensor in decoder.state_dict().items()}
    generate(decoder, prompts, Settings(max_tokens=3))
    assert all(torch.equal(tensor, before[name]) for name, tensor in decoder.state_dict().items())
    decoder(Batch.of(random_ids(decoder.config.vocab, 5))).sum().backward()  # and training goes on afterwards


def test_no_prompts_give_no_results(decoder: Decoder) -> None:
    assert generate(decoder, [], Settings()) == []


@pytest.mark.parametrize(("prompt", "told"), [([], "Prompt 1: The prompt has no token"), ([3, 10_000], "10000"), ([-1], "-1")])
def test_a_prompt_that_cannot_be_run_is_named(decoder: Decoder, prompt: list[int], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        generate(decoder, [[1], prompt], Settings(max_tokens=2))


def test_settings_must_be_one_or_one_for_each(decoder: Decoder) -> None:
    with pytest.raises(ConfigError, match="2 for 1"):
        generate(decoder, [[1]], [Settings(), Settings()])
