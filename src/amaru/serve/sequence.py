"""One request while it runs: its tokens, how many of them the state has seen, and its slot in the pool."""

from dataclasses import dataclass
from typing import Literal

from pydantic import Field
from torch import Tensor

from amaru.config import Config
from amaru.serve.sampler import Sampler, Sampling


class Settings(Config):
    """`Settings(max_tokens=64, stop=(eos,), sampling=Sampling(seed=3))`: what ends a request, and how it chooses.

    stop     token ids that end it; the one that did is not part of the result
    """

    max_tokens: int = Field(default=128, gt=0)
    stop: tuple[int, ...] = ()
    sampling: Sampling = Sampling()


@dataclass(frozen=True)
class Generation:
    """What a request became: the tokens after the prompt, and why they end ("stop": a stop token, "length": max_tokens)."""

    prompt: list[int]
    tokens: list[int]
    finish: Literal["stop", "length"]


class Sequence:
    """`ids` are prompt and result so far, of which the first `computed` are in the state of `slot`."""

    def __init__(self, index: int, prompt: list[int], settings: Settings, slot: int) -> None:
        self.index = index
        self.ids = list(prompt)
        self.prompt_tokens = len(prompt)
        self.settings = settings
        self.slot = slot
        self.computed = 0
        self.finish: Literal["stop", "length"] | None = None
        self._sampler = Sampler(settings.sampling)

    @property
    def waiting(self) -> int:
        """Tokens that the model has not seen yet: the rest of the prompt, or the newest token."""
        return len(self.ids) - self.computed

    def choose(self, logits: Tensor) -> int | None:
        """Append the next token and return it; None when it was a stop token. Sets `finish` when this ends the request."""
        token = self._sampler(logits)
        if token in self.settings.stop:
            self.finish = "stop"
            return None
        self.ids.append(token)
        if len(self.ids) - self.prompt_tokens == self.settings.max_tokens:
            self.finish = "length"
        return token

    def result(self) -> Generation:
        assert self.finish is not None
        return Generation(self.ids[: self.prompt_tokens], self.ids[self.prompt_tokens :], self.finish)
