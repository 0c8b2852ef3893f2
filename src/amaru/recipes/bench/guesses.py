"""Guesses measured: how many of them a model takes on real text, and what that is worth in time beside the same engine without them."""

import time
from collections.abc import Sequence
from pathlib import Path

import torch
from pydantic import Field

from amaru.config import Config
from amaru.data.tokenizer import Tokenizer
from amaru.errors import DataError
from amaru.models.checkpoint import load
from amaru.models.decoder import Decoder
from amaru.recipes.bench.infer import Progress
from amaru.recipes.sources import Source, gather
from amaru.serve.config import EngineConfig, Guessing
from amaru.serve.engine import Engine
from amaru.serve.request import Event, Handle, Settings
from amaru.serve.sampler import GREEDY


class Guesses(Config):
    """`Guesses(prompts=20, new=128)`: the first `prompt` tokens of so many texts, each continued greedily by `new` tokens.

    together   requests that run at once
    most       tokens that are guessed at once
    rounds     in each of which every kind of guess has its turn; the fastest counts, and the first is not counted
    dtype      of weights and activations; None: as stored
    """

    prompts: int = Field(default=20, gt=0)
    prompt: int = Field(default=128, gt=0)
    new: int = Field(default=128, gt=0)
    together: int = Field(default=1, gt=0)
    most: int = Field(default=5, gt=0)
    rounds: int = Field(default=3, gt=1)
    dtype: str | None = Field(default=None, pattern="float32|bfloat16")


class Row(Config):
    """One kind of guess: tokens per second, how many times that is the rate without guesses, and on how many prompts the
    answer was the same; of one round the tokens that were guessed and taken, and the passes of the model."""

    guesses: Guessing
    rate: float
    times: float
    same: int
    drafted: int
    accepted: int
    passes: int


class Result(Config):
    rows: tuple[Row, ...]
    threads: int
    text: str
    settings: Guesses


def run(
    checkpoint: str | Path,
    draft: str | Path | None,
    data: Sequence[str],
    settings: Guesses = Guesses(),  # noqa: B008  (frozen)
    progress: Progress = print,
) -> Result:
    """`run("parent", "student", ["@python"])`: without guesses, from the text so far, and from the draft model if there is one.

    Raises `DataError` when too few texts are as long as a prompt.
    """
    dtype = None if settings.dtype is None else getattr(torch, settings.dtype)
    decoder, smaller = load(checkpoint, dtype), None if draft is None else load(draft, dtype)
    corpus = gather(Source(data=tuple(data)))
    prompts = _prompts(Tokenizer.load(checkpoint), [document.text for document in corpus.documents], settings)
    kinds: tuple[Guessing, ...] = ("off", "lookup") if smaller is None else ("off", "lookup", "draft")
    turns = {kind: Turns(decoder, kind, smaller, prompts, settings) for kind in kinds}
    for number in range(settings.rounds):
        for kind in kinds:
            progress(f"guesses: {kind}, round {number + 1} of {settings.rounds}")
            turns[kind].take()
    rows = tuple(turns[kind].row(turns["off"]) for kind in kinds)
    return Result(rows=rows, threads=torch.get_num_threads(), text=str(corpus.summary), settings=settings)


class Turns:
    """An engine with one kind of guess, and what its rounds brought."""

    def __init__(self, decoder: Decoder, kind: Guessing, draft: Decoder | None, prompts: list[list[int]], settings: Guesses) -> None:
        config = EngineConfig(
            max_running=settings.together,
            max_waiting=len(prompts),
            max_tokens=settings.prompt + settings.new,
            prefix_bytes=0,
            speculate=kind,
            draft_tokens=settings.most,
        )
        self._kind: Guessing = kind
        self._prompts = prompts
        self._engine = Engine(decoder, config=config, draft=draft if kind == "draft" else None)
        self._wish = Settings(max_tokens=settings.new, sampling=GREEDY)
        self.answers: list[list[int]] = []
        self.seconds: list[float] = []

    def take(self) -> None:
        self.answers = [[] for _ in self._prompts]
        start = time.perf_counter()
        for prompt, answer in zip(self._prompts, self.answers, strict=True):

            def receive(_: Handle, event: Event, answer: list[int] = answer) -> None:
                answer.extend(token.id for token in event.tokens)

            self._engine.submit(prompt, self._wish, receive)
        while self._engine.step():
            pass
        self.seconds.append(time.perf_counter() - start)

    def row(self, plain: "Turns") -> Row:
        best, stats, rounds = min(self.seconds[1:]), self._engine.stats(), len(self.seconds)
        return Row(
            guesses=self._kind,
            rate=sum(map(len, self.answers)) / best,
            times=min(plain.seconds[1:]) / best,
            same=sum(ours == theirs for ours, theirs in zip(self.answers, plain.answers, strict=True)),
            drafted=stats.drafted_tokens // rounds,
            accepted=stats.accepted_tokens // rounds,
            passes=stats.steps // rounds,
        )


def _prompts(tokenizer: Tokenizer, texts: Sequence[str], settings: Guesses) -> list[list[int]]:
    """From texts all over the corpus, evenly spread."""
    found = [ids for text in texts if len(ids := tokenizer.encode(text[: 16 * settings.prompt])) > settings.prompt]
    if len(found) < settings.prompts:
        raise DataError(f"{len(found)} of the {len(texts)} texts have more than {settings.prompt} tokens; {settings.prompts} are needed.")
    chosen = [found[index * len(found) // settings.prompts] for index in range(settings.prompts)]
    return [ids[: settings.prompt] for ids in chosen]
