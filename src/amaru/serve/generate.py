"""Generation: prompts are prefilled in chunks and decoded together, one token-major batch a step, until each has ended."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from amaru.errors import ConfigError
from amaru.models.decoder import Decoder
from amaru.models.state import DecoderState
from amaru.nn.batch import Batch
from amaru.serve.sequence import Generation, Sequence, Settings
from amaru.serve.state_pool import StatePool

CHUNK_TOKENS = 2048  # a step's tokens; bounds the activations of a long prompt, and how long others wait for it


class Work(NamedTuple):
    """The tokens that one sequence brings to a step: they follow `start` earlier ones in the state of `slot`."""

    ids: list[int]
    start: int
    slot: int


def generate(
    decoder: Decoder,
    prompts: list[list[int]],
    settings: Settings | list[Settings],
    on_token: Callable[[int, int], None] | None = None,
    *,
    chunk_tokens: int = CHUNK_TOKENS,
) -> list[Generation]:
    """Continue prompts, all of them together.

    >>> generate(decoder, [tokenizer.encode("def main("), [5, 7]], Settings(max_tokens=20))[0].tokens

    One `settings` for all, or one for each. `on_token(index, token)` is called as soon as a token of prompt `index` is
    chosen. Each result is what the prompt gives alone: it has its own generator, and sequences share no state.
    Raises `ConfigError` for an empty prompt or a token that the vocabulary does not have.
    """
    each = settings if isinstance(settings, list) else [settings] * len(prompts)
    _check(prompts, each, decoder.config.vocab)
    capacity = max((len(prompt) + wish.max_tokens for prompt, wish in zip(prompts, each, strict=True)), default=0)
    pool = StatePool(decoder, len(prompts), capacity)
    sequences = [Sequence(index, prompt, wish, pool.take()) for index, (prompt, wish) in enumerate(zip(prompts, each, strict=True))]
    running = list(sequences)
    while running:
        for sequence in _step(decoder, pool, running, chunk_tokens, on_token):
            pool.give_back(sequence.slot)
            running.remove(sequence)
    return [sequence.result() for sequence in sequences]


@torch.inference_mode()
def advance(decoder: Decoder, state: DecoderState, work: list[Work]) -> Tensor:
    """Run the model over each sequence's tokens and return the logits [S, vocab] after the last of each."""
    batch = Batch.of(
        [torch.tensor(item.ids) for item in work], starts=[item.start for item in work], slots=[item.slot for item in work]
    ).to(decoder.embedding.weight.device)
    hidden = decoder.hidden_states(batch, state)
    return decoder.logits(hidden[batch.cu_seqlens[1:] - 1])


def _step(
    decoder: Decoder, pool: StatePool, running: list[Sequence], chunk_tokens: int, on_token: Callable[[int, int], None] | None
) -> list[Sequence]:
    """One pass of the model; returns the sequences that ended."""
    shares = list(_shares(running, chunk_tokens))
    work = [Work(sequence.ids[sequence.computed :][:count], sequence.computed, sequence.slot) for sequence, count in shares]
    for (sequence, count), logits in zip(shares, advance(decoder, pool.state, work), strict=True):
        sequence.computed += count
        if sequence.waiting:
            continue  # its prompt goes on in the next step
        token = sequence.choose(logits)
        if token is not None and on_token is not None:
            on_token(sequence.index, token)
    return [sequence for sequence, _ in shares if sequence.finish]


def _shares(running: list[Sequence], chunk_tokens: int) -> Iterable[tuple[Sequence, int]]:
    """How many waiting tokens of whom: those that decode first, then prompts as far as `chunk_tokens` reaches."""
    left = max(chunk_tokens, len(running))
    for sequence in sorted(running, key=lambda sequence: sequence.waiting):
        if count := min(sequence.waiting, left):
            left -= count
            yield sequence, count


def _check(prompts: list[list[int]], settings: list[Settings], vocab: int) -> None:
    if len(prompts) != len(settings):
        raise ConfigError(f"Give one settings for all prompts or one for each; got {len(settings)} for {len(prompts)} prompts.")
    for index, prompt in enumerate(prompts):
        if not prompt:
            raise ConfigError(f"Prompt {index} has no token; generation needs at least one to begin with.")
        unknown = [token for token in prompt if not 0 <= token < vocab]
        if unknown:
            raise ConfigError(f"Prompt {index} has token {unknown[0]}, but the model knows 0 to {vocab - 1}.")
