"""Generation in one call: all prompts run together on an engine of their own, until each has ended."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from amaru.data.tokenizer import Tokenizer
from amaru.errors import CheckpointError, ConfigError
from amaru.models.decoder import Decoder
from amaru.serve.config import EngineConfig, Guessing
from amaru.serve.engine import Engine
from amaru.serve.forward import CHUNK_TOKENS
from amaru.serve.request import Event, Finish, Handle, Settings, Token
from amaru.serve.state_pool import room_of


@dataclass
class Generation:
    """What a request became: the tokens after the prompt, their text, and why they end ("stop" or "length"); how many tokens were
    guessed ahead, and how many of these the model chose too."""

    prompt: list[int]
    told: list[Token] = field(default_factory=list)
    text: str = ""
    finish: Finish | None = None
    drafted: int = 0
    accepted: int = 0

    @property
    def tokens(self) -> list[int]:
        return [token.id for token in self.told]


def generate(
    decoder: Decoder,
    prompts: list[list[int]],
    settings: Settings | list[Settings],
    on_event: Callable[[int, Event], None] | None = None,
    *,
    tokenizer: Tokenizer | None = None,
    chunk_tokens: int = CHUNK_TOKENS,
    exact: bool = False,
    kv: Literal["model", "fp8"] = "model",
    speculate: Guessing = "off",
    draft: Decoder | None = None,
) -> list[Generation]:
    """Continue prompts, all of them together.

    >>> generate(decoder, [tokenizer.encode("def main("), [5, 7]], Settings(max_tokens=20))[0].tokens

    One `settings` for all, or one for each. `on_event(index, event)` is called as soon as something of prompt `index` is new.
    Each result is what the prompt gives alone: it has its own generator, and sequences share no state; to the bit, if `exact`. Guesses
    ("lookup", or "draft" with a smaller model) make it faster and change nothing. Text, and stop strings, need a `tokenizer`.
    Raises `ConfigError` for an empty prompt or a token that the vocabulary does not have, or a draft that does not fit.
    """
    each = settings if isinstance(settings, list) else [settings] * len(prompts)
    if len(prompts) != len(each):
        raise ConfigError(f"Give one settings for all prompts or one for each; got {len(each)} for {len(prompts)} prompts.")
    if not prompts:
        return []
    longest = max(len(prompt) + wish.max_tokens for prompt, wish in zip(prompts, each, strict=True))
    sizes: dict[str, Any] = {"max_waiting": len(prompts), "max_tokens": longest, "chunk_tokens": chunk_tokens, "prefix_bytes": 0}
    config = EngineConfig(**sizes, exact=exact, kv=kv, speculate=speculate)
    engine = Engine(decoder, tokenizer, config, room_of(decoder, len(prompts), longest, chunk_tokens), draft)
    results = [Generation(list(prompt)) for prompt in prompts]
    raised: list[Exception] = []
    for index, (prompt, wish) in enumerate(zip(prompts, each, strict=True)):
        try:
            engine.submit(prompt, wish, _collector(index, results[index], on_event, raised))
        except ConfigError as error:
            raise ConfigError(f"Prompt {index}: {error}") from None
    while engine.step() and not raised:
        pass
    if raised:
        raise raised[0]
    return results


def _collector(
    index: int, result: Generation, on_event: Callable[[int, Event], None] | None, raised: list[Exception]
) -> Callable[[Handle, Event], None]:
    """Keeps what comes; what goes wrong, in the model or in `on_event`, is for the caller of `generate`."""

    def collect(handle: Handle, event: Event) -> None:
        result.told += event.tokens
        result.text += event.text
        result.finish = event.finish
        result.drafted, result.accepted = handle.drafted_tokens, handle.accepted_tokens
        if event.error:
            raised.append(CheckpointError(event.error))
        try:
            if on_event:
                on_event(index, event)
        except Exception as error:
            raised.append(error)

    return collect
