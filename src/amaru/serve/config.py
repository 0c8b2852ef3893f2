"""What an engine may hold and how it shares its steps, in one strict config."""

from typing import Literal

from pydantic import Field

from amaru.config import Config
from amaru.serve.forward import CHUNK_TOKENS

Guessing = Literal["off", "lookup", "draft"]


class EngineConfig(Config):
    """`EngineConfig(memory=4 * 2**30, max_running=32)`: how much the engine may hold, and how it shares its steps.

    memory         bytes for states and caches of running sequences
    max_running    sequences that run at once, if memory allows
    max_waiting    requests that may queue; more are refused as busy
    max_tokens     the longest sequence, prompt and answer together; None: what the model was trained with
    chunk_tokens   tokens of a step; bounds the activations of a long prompt, and how long others wait for it
    prefix_bytes   for states after known prefixes, beside `memory`; 0 switches reuse off
    prefix_every   besides a prompt's end, remember its state after every so many tokens
    speculate      where guesses of the next tokens come from: "lookup" in the text so far, or a "draft" model
    draft_tokens   the most that are guessed at once
    draft_step     guesses fill a step up to so many tokens of all who decode: about what is verified in the time of one, weights being
                   read once for all; a crowd that is as large without them is not guessed for
    draft_memory   bytes for the draft model's states and caches, beside `memory`; for the prefixes that it knows it has the same
                   part of this in addition as `prefix_bytes` is of `memory`
    kv             keys and values as the "model" computes them, or in 8 bits ("fp8"): twice the sequences, and a little error
    state          SSM states in "fp32", or in "bf16": half the bytes to hold and to move, and a rounding at every token
    exact          the same bits for a sequence whatever runs beside it, is reused or guessed; what that costs is in docs/serving.md
    """

    memory: int = Field(default=2 * 2**30, gt=0)
    max_running: int = Field(default=32, gt=0)
    max_waiting: int = Field(default=256, ge=0)
    max_tokens: int | None = Field(default=None, gt=0)
    chunk_tokens: int = Field(default=CHUNK_TOKENS, gt=0)
    prefix_bytes: int = Field(default=2**30, ge=0)
    prefix_every: int = Field(default=1024, gt=0)
    speculate: Guessing = "off"
    draft_tokens: int = Field(default=5, gt=0)
    draft_step: int = Field(default=8, gt=0)
    draft_memory: int = Field(default=2**28, gt=0)
    kv: Literal["model", "fp8"] = "model"
    state: Literal["fp32", "bf16"] = "fp32"
    exact: bool = False

    @property
    def draft_prefix_bytes(self) -> int:
        return self.prefix_bytes * self.draft_memory // self.memory
