"""A request as the engine sees it: what ends it, how it chooses, and what comes back while it runs."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import Field

from amaru.config import Config
from amaru.errors import ConfigError
from amaru.serve.sampler import Sampling

Finish = Literal["stop", "length", "cancelled", "error"]


class Settings(Config):
    """`Settings(max_tokens=64, stop=(eos,), sampling=Sampling(seed=3))`: what ends a request, and how it chooses.

    max_tokens, min_tokens  of the answer; before `min_tokens` nothing stops it
    stop                    token ids that end it; the one that did is not part of the result
    stop_strings            texts that end it; neither the one that did nor anything behind it is part of the text
    logprobs                also give each token's log-probability, and those of this many of the likeliest; None: none
    prompt_logprobs         the same for every token of the prompt but its first
    schema                  a JSON schema that the text satisfies when it finishes with "stop"; one cut at `max_tokens` may be left
                            open, as everywhere. {} is any JSON object. An answer that is whole ends, whatever `min_tokens` says
    speculate               tokens may be guessed ahead, where the engine does that; changes speed, not the answer
    adapter                 the name of one that the engine's decoder has; None: the model as it is
    """

    max_tokens: int = Field(default=128, gt=0)
    min_tokens: int = Field(default=0, ge=0)
    stop: tuple[int, ...] = ()
    stop_strings: tuple[str, ...] = ()
    logprobs: int | None = Field(default=None, ge=0)
    prompt_logprobs: bool = False
    schema: dict[str, Any] | None = None
    speculate: bool = True
    adapter: str | None = None
    sampling: Sampling = Sampling()

    def check(self) -> None:
        if self.min_tokens > self.max_tokens:
            raise ConfigError(f"Settings.min_tokens must be at most max_tokens; got {self.min_tokens} and {self.max_tokens}.")
        if "" in self.stop_strings:
            raise ConfigError("Settings.stop_strings holds an empty text, which would end every answer before it begins.")
        if self.schema is not None and self.stop_strings:
            raise ConfigError("Settings has a schema and stop_strings, which would cut the answer in the middle; give one of them.")


@dataclass(frozen=True)
class Token:
    """A token with the text it made certain ("" while bytes are missing), and log-probabilities where they were asked for."""

    id: int
    text: str = ""
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Event:
    """What one step of the engine brought to a request. `text` is final: no stop string begins in it."""

    tokens: tuple[Token, ...] = ()
    text: str = ""
    finish: Finish | None = None
    error: str | None = None


@dataclass(eq=False)
class Handle:
    """A submitted request: its counts so far, and the way to end it early."""

    id: str
    prompt_tokens: int
    cancel: Callable[[], None]
    reused_tokens: int = 0
    completion_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    prompt_logprobs: list[Token] = field(default_factory=list)
