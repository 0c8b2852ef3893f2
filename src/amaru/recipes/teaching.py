"""How a student is taught, in the words of a recipe: the loss, whether the teacher runs along, and the arithmetic that is learned for."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from amaru.config import Config
from amaru.data.loader import TrainingBatch
from amaru.distill.cache import Kept, LogitCache
from amaru.distill.caching import fill
from amaru.distill.hidden import project
from amaru.distill.objective import Distillation
from amaru.distill.terms import Terms
from amaru.errors import ConfigError
from amaru.models.checkpoint import Checkpoint, fingerprint, load
from amaru.models.decoder import Decoder
from amaru.precision.fp8 import Fp8Recipe
from amaru.precision.in_training import train_for
from amaru.precision.scheme import Scheme
from amaru.recipes.run import Run
from amaru.recipes.text import Text
from amaru.train.settings import TrainConfig
from amaru.train.step import micro_batches

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


class CacheRecipe(Config):
    """`CacheRecipe(directory="logits")`: what the teacher says is kept there, and read instead of running it again.

    top      most likely tokens that are kept of each distribution, and the mass of all others; "full": the whole vocabulary
    stored   how log-probabilities are stored
    """

    directory: str
    top: int | Literal["full"] = 128
    stored: Literal["fp16", "fp32"] = "fp16"

    def check(self) -> None:
        if self.top != "full" and self.top < 1:
            raise ConfigError(f"cache.top is how many tokens are kept, 1 or more, or full; got {self.top}.")


class Teaching(Config):
    """`Teaching()`: forward KL on the logits of a teacher that runs along, in the arithmetic of `learning.dtype`.

    loss            which divergence, and what stands beside it
    cache           the teacher's answers are kept on disk first; None: it runs along
    teacher_dtype   of the teacher's weights and arithmetic; None: `learning.dtype`. One of 8 or 4 bits keeps its codes
    fp8             the student's projections in 8-bit floats, as `amaru train --precision fp8` has them
    quantise        the student's projections compute with what their codes mean, so that it can be quantised afterwards
    """

    loss: Terms = Terms()
    cache: CacheRecipe | None = None
    teacher_dtype: Literal["bf16", "fp32"] | None = None
    fp8: Fp8Recipe | None = None
    quantise: Scheme | None = None

    def check(self) -> None:
        if self.fp8 is not None and self.quantise is not None:
            raise ConfigError("A student learns for FP8 products or for codes of its weights, not for both; leave fp8 or quantise out.")
        if self.cache is not None and self.loss.hidden is not None:
            raise ConfigError("A logit cache holds no hidden states; leave loss.hidden or the cache out.")

    def pairs(self, student: int, teacher: int) -> tuple[tuple[int, int], ...]:
        """The layers whose hidden states are compared, of models so deep."""
        return () if self.loss.hidden is None else self.loss.hidden.paired(student, teacher)


class Lesson:
    """One student and its teacher: `Lesson(teaching, run, teacher, student, training, text)` has what `fit` asks for."""

    def __init__(self, teaching: Teaching, run: Run, teacher: Path, student: Path, training: TrainConfig, text: Text) -> None:
        self.teaching, self.run, self.teacher, self.student = teaching, run, teacher, student
        self.training, self.text = training, text
        self.batches = text.batches(training.steps, training.batch_rows, training.seed)
        self.dtype = DTYPES[teaching.teacher_dtype or training.dtype]
        self.taught = Checkpoint(teacher).config
        self.pairs = teaching.pairs(len(Checkpoint(student).config.layers), len(self.taught.layers))

    @property
    def made_from(self) -> dict[str, str]:
        """Hashes of what decides the result, besides text and training. Where a cache lies decides nothing."""
        how = self.teaching if self.teaching.cache is None else replace(self.teaching, cache=replace(self.teaching.cache, directory=""))
        return {"start": fingerprint(self.student), "teacher": fingerprint(self.teacher), "teaching": f"{how} {self.dtype}"}

    def start(self) -> Decoder:
        """The student, ready to be taught."""
        student, teaching = load(self.student, torch.float32), self.teaching
        if teaching.quantise is not None:
            found = train_for(student, teaching.quantise)
            self.run.progress.note(f"  {len(found)} weights are trained for {', '.join(sorted({str(each) for each in found.values()}))}")
        return project(student, self.taught.hidden, len(self.pairs), self.training.seed) if self.pairs else student

    def objective(self) -> Distillation:
        if self.pairs:
            told = ", ".join(f"{mine} with {theirs}" for mine, theirs in self.pairs)
            self.run.progress.note(f"  hidden states behind layers of student and teacher: {told}")
        teacher = self._model() if self.teaching.cache is None else self._cache(self.teaching.cache)
        return Distillation(teacher, self.teaching.loss, pairs=self.pairs)

    def _model(self) -> Decoder:
        """In bf16 its matrices take half the memory; A_log, D and dt_bias stay in fp32."""
        decoder = load(self.teacher, self.dtype, self.run.device)
        decoder.compute_dtype = None if self.dtype is torch.float32 else self.dtype
        return decoder

    def _cache(self, cache: CacheRecipe) -> LogitCache:
        """What is missing is computed first, on the very batches of the training."""
        progress, tokenizer = self.run.progress, self.text.tokenizer.fingerprint
        made_from = {"teacher": fingerprint(self.teacher), "tokenizer": tokenizer, "arithmetic": str(self.dtype)}
        kept = Kept(top=None if cache.top == "full" else cache.top, stored=cache.stored, temperature=self.teaching.loss.temperature)
        computed = 0

        def told(tokens: int) -> None:
            nonlocal computed
            computed = tokens
            progress.update(f"the teacher's answers: {tokens:,} tokens")

        seconds = self.training.checkpoint_seconds
        filled = fill(cache.directory, self._seen(), self._model, made_from, self.taught.vocab, kept, seconds=seconds, progress=told)
        progress.note(
            f"  logit cache {cache.directory}: {filled.tokens:,} tokens, {filled.bytes / 1e6:,.1f} MB, "
            f"{filled.bytes / filled.tokens:,.0f} bytes a token; {computed:,} of them computed now"
        )
        return filled

    def _seen(self) -> Iterator[TrainingBatch]:
        for step in range(self.training.steps):
            yield from micro_batches(self.batches, step, self.training.micro_tokens)
