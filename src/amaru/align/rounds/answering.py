"""Answers of a model to prompts, drawn by amaru's own engine in this process, and kept batch by batch."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from amaru.align.rounds.prompts import Prompt
from amaru.config import Config, fingerprint_bytes
from amaru.config.records import read_lines
from amaru.data.chat import Template
from amaru.data.templates import template_of
from amaru.data.tokenizer import Tokenizer
from amaru.errors import ConfigError
from amaru.models.decoder import Decoder
from amaru.serve.generate import generate
from amaru.serve.request import Settings
from amaru.serve.sampler import Sampling


class Answering(Config):
    """`Answering(samples=4, max_tokens=512)`: how answers are drawn.

    samples      of each prompt by each model
    temperature  0 takes the likeliest token every time, so that one sample is all there is
    at_once      prompts whose answers are drawn together, and kept together
    """

    samples: int = Field(default=4, gt=0)
    temperature: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_tokens: int = Field(default=512, gt=0)
    at_once: int = Field(default=32, gt=0)

    def check(self) -> None:
        if self.temperature == 0 and self.samples > 1:
            raise ConfigError(f"At temperature 0 all {self.samples} samples of a prompt are one; ask for 1, or give a temperature.")


@dataclass(frozen=True)
class Answered:
    """One answer; `whole` says that the model ended it, and not the limit of tokens."""

    text: str
    tokens: int
    whole: bool


@dataclass(frozen=True)
class Speaker:
    """A model that answers: its decoder, its chat template, and the token that ends a turn."""

    decoder: Decoder
    template: Template

    @property
    def stop(self) -> tuple[int, ...]:
        return tuple(self.template.ids(self.template.ending()))

    @classmethod
    def of(cls, decoder: Decoder, tokenizer: Tokenizer, template: str | None) -> "Speaker":
        """Raises `ConfigError` where neither the tokenizer nor the recipe has a chat template."""
        return cls(decoder, template_of(template, tokenizer))


def answer(
    speaker: Callable[[], Speaker],
    prompts: Sequence[Prompt],
    how: Answering,
    seed: str,
    file: Path,
    made_from: dict[str, str],
    tell: Callable[[int], None] = lambda done: None,
) -> list[list[Answered]]:
    """The answers to every prompt, drawn once: `file` holds those of the batches that are whole, and a later call goes on behind them.

    Every answer has a generator of its own, from `seed`, the prompt and its number, and batches are always of the same prompts; so a run
    that was stopped gives what an undisturbed one gives. `tell` gets the number of prompts that are done.
    """
    done = _whole(file, made_from, how.at_once, len(prompts))
    batches = [prompts[first : first + how.at_once] for first in range(0, len(prompts), how.at_once)]
    if len(done) < len(prompts):
        who = speaker()
        for batch in batches[len(done) // how.at_once :]:
            lines = [{"answers": [vars(each) for each in some]} for some in _batch(who, batch, how, seed)]
            _append(file, lines)
            done += lines
            tell(len(done))
    return [[Answered(**each) for each in line["answers"]] for line in done]


def _batch(who: Speaker, prompts: Sequence[Prompt], how: Answering, seed: str) -> list[list[Answered]]:
    """All answers to some prompts, in one run of an engine."""
    template, stop = who.template, who.stop
    ids = [template.ids(template.render(list(each.messages), begin=True)) for each in prompts]
    wishes = [_settings(each, number, how, seed, stop) for each in prompts for number in range(how.samples)]
    found = generate(who.decoder, [one for one in ids for _ in range(how.samples)], wishes)
    answers = [Answered(template.tokenizer.decode(each.tokens), len(each.tokens), each.finish == "stop") for each in found]
    return [answers[first : first + how.samples] for first in range(0, len(answers), how.samples)]


def _settings(prompt: Prompt, number: int, how: Answering, seed: str, stop: tuple[int, ...]) -> Settings:
    own = int(fingerprint_bytes(seed, prompt.identity, str(number))[:15], 16)
    sampling = Sampling(temperature=how.temperature, top_p=how.top_p, seed=own)
    return Settings(max_tokens=how.max_tokens, stop=stop, sampling=sampling)


def _whole(file: Path, made_from: dict[str, str], at_once: int, wanted: int) -> list[dict[str, Any]]:
    """What an earlier call kept, in whole batches; the file is cut behind them, or begun anew where it was made from other things."""
    lines = read_lines(file) if file.exists() else []
    if not lines or lines[0] != made_from:
        file.unlink(missing_ok=True)
        _append(file, [made_from])
        return []
    count = len(lines) - 1
    whole = count if count == wanted else count // at_once * at_once
    with file.open("rb+") as opened:
        for _ in range(1 + whole):
            opened.readline()
        opened.truncate()
    return lines[1 : 1 + whole]


def _append(file: Path, lines: Sequence[dict[str, Any]]) -> None:
    """At the end of the file, on the disk before this returns."""
    with file.open("a", encoding="utf-8") as opened:
        opened.write("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        opened.flush()
        os.fsync(opened.fileno())
