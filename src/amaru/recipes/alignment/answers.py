"""Answers of a checkpoint as a step of a run: drawn batch by batch, kept, and drawn no more."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from amaru.align.rounds import Answered, Answering, Prompt, Speaker, answer
from amaru.align.rounds.prompts import fingerprint_of
from amaru.config import fingerprint_bytes
from amaru.models.checkpoint import fingerprint, load
from amaru.recipes.run import Run
from amaru.recipes.teaching import DTYPES
from amaru.recipes.text import tokenizer_of


@dataclass(frozen=True)
class Voice:
    """`Voice("runs/a/model", "chatml")`: a checkpoint that answers; `template` where its tokenizer has none, `dtype` of its arithmetic."""

    checkpoint: Path
    template: str | None = None
    dtype: str = "fp32"

    @property
    def fingerprint(self) -> str:
        return fingerprint_bytes(fingerprint(self.checkpoint), str(self.template), self.dtype)

    def speaker(self, device: torch.device) -> Speaker:
        return Speaker.of(load(self.checkpoint, DTYPES[self.dtype], device), tokenizer_of(self.checkpoint), self.template)


def answers(
    run: Run, name: str, voice: Voice, prompts: Sequence[Prompt], how: Answering, seed: str, *, title: str
) -> list[list[Answered]]:
    """The answers to every prompt, kept as `NAME.jsonl`; a run that was stopped goes on behind the last batch."""
    made_from = {"model": voice.fingerprint, "prompts": fingerprint_of(prompts), "how": repr(how), "seed": seed}

    def drawn(path: Path) -> list[list[Answered]]:
        def tell(done: int) -> None:
            run.progress.update(f"{title}: {done:,} of {len(prompts):,} prompts")

        return answer(lambda: voice.speaker(run.device), prompts, how, seed, path, made_from, tell)

    return run.keep(f"{name}.jsonl", made_from, drawn, drawn, title=title, describe=described)


def described(some: Sequence[Sequence[Answered]]) -> str:
    """`1,200 answers to 300 prompts, 41 tokens on average, 98 % ended by the model`"""
    flat = [each for answers in some for each in answers]
    tokens, whole = sum(each.tokens for each in flat) / len(flat), sum(each.whole for each in flat) / len(flat)
    return f"{len(flat):,} answers to {len(some):,} prompts, {tokens:.0f} tokens on average, {whole:.0%} ended by the model"
