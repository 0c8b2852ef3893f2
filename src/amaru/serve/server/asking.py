"""From a request's fields to what the engine is told: one `Settings` per choice, each with a seed of its own."""

import secrets
from dataclasses import replace
from typing import Any

from amaru.errors import ConfigError
from amaru.serve.request import Handle, Settings
from amaru.serve.sampler import Sampling
from amaru.serve.server.answer import Answer
from amaru.serve.server.chat import Prompt
from amaru.serve.server.requests import GenerationRequest
from amaru.serve.server.responses import Usage
from amaru.serve.server.served import Served

SEEDS = 2**63


def settings_of(served: Served, request: GenerationRequest, max_tokens: int, **more: Any) -> Settings:
    """Without a seed a new one is drawn, so that asking twice gives two answers."""
    sampling = Sampling(
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        min_p=request.min_p,
        repetition_penalty=request.repetition_penalty,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        seed=secrets.randbelow(SEEDS) if request.seed is None else request.seed % SEEDS,
    )
    return Settings(
        max_tokens=max_tokens,
        min_tokens=request.min_tokens,
        stop=(*(() if request.ignore_eos else served.stops), *request.stop_token_ids),
        stop_strings=request.stop,
        sampling=sampling,
        adapter=served.adapter,
        **more,
    )


def submit(served: Served, answer: Answer, prompts: list[Prompt], settings: Settings, n: int) -> None:
    """`n` choices of each prompt, in the order of their index. Raises what the engine raises."""
    if len(prompts) * n > (most := max(1, served.engine.config.max_waiting)):
        raise ConfigError(f"{len(prompts)} prompts with n={n} are {len(prompts) * n} answers; one request may ask for {most}.")
    for prompt in prompts:
        for choice in range(n):
            seed = (settings.sampling.seed + choice) % SEEDS
            answer.submit(prompt, replace(settings, sampling=replace(settings.sampling, seed=seed)))


def usage_of(handles: list[Handle], n: int) -> Usage:
    """A prompt counts once, however many choices it has."""
    prompts = handles[::n]
    completion = sum(handle.completion_tokens for handle in handles)
    drafted, accepted = (sum(getattr(handle, f"{name}_tokens") for handle in handles) for name in ("drafted", "accepted"))
    reused = sum(each.reused_tokens for each in prompts)
    return Usage.of(sum(each.prompt_tokens for each in prompts), completion, reused, drafted, accepted)
