"""How long and how hard to train, in the words of a recipe; the loop's own settings follow from it."""

from dataclasses import fields
from typing import Literal

from pydantic import Field

from amaru.config import Config
from amaru.errors import ConfigError
from amaru.train.settings import Descent, TrainConfig


class Saving(Config):
    """`Saving(seconds=600, keep=3, best=True)`: the state of a run on disk; none of it changes a result, but for `best`.

    seconds        between two checkpoints
    keep           how many of the newest stay
    best           the state of the lowest validation loss stays too, and its weights are what the run ends with
    in_background  training goes on while a thread writes; costs the memory of a copy of weights and optimizer state
    """

    seconds: float = Field(default=60.0, ge=0)
    keep: int = Field(default=2, gt=0)
    best: bool = False
    in_background: bool = False


class Learning(Descent):
    """`Learning(tokens=2_000_000, lr=1e-3)`; what a step does is told in `Descent`.

    tokens         how many to train on; steps follow from them and the batch
    batch_rows     rows a step, or
    batch_tokens   tokens a step, whatever the length of rows
    warmup_share   share of the steps in which the learning rate rises, or
    warmup_tokens  tokens in which it does; then it falls to `final_lr_share` of `lr`
    dtype          of the arithmetic; weights and optimizer state stay fp32
    validations    how often the loss on validation rows is taken along the way
    saving         when and how the state is saved
    """

    tokens: int = Field(default=2_000_000, gt=0)
    batch_rows: int = Field(default=8, gt=0)
    batch_tokens: int | None = Field(default=None, gt=0)
    lr: float = Field(default=1e-3, gt=0)
    warmup_share: float = Field(default=0.05, ge=0, lt=1)
    warmup_tokens: int | None = Field(default=None, ge=0)
    dtype: Literal["bf16", "fp32"] = "bf16"
    validations: int = Field(default=8, gt=0)
    saving: Saving = Saving()

    def check(self) -> None:
        if self.warmup_tokens is not None and self.warmup_tokens >= self.tokens:
            raise ConfigError(f"Learning.warmup_tokens must be less than tokens; got {self.warmup_tokens:,} and {self.tokens:,}.")
        super().check()

    def rows(self, row_length: int) -> int:
        """Rows of a batch; raises `ConfigError` when they would not be whole."""
        if self.batch_tokens is None:
            return self.batch_rows
        if self.batch_tokens % row_length:
            raise ConfigError(f"Learning.batch_tokens must be whole rows of {row_length} tokens; got {self.batch_tokens:,}.")
        return self.batch_tokens // row_length

    def steps(self, row_length: int) -> int:
        """Whole steps that see at least `tokens` tokens."""
        return max(1, -(-self.tokens // (self.rows(row_length) * row_length)))

    def training(self, row_length: int, seed: int) -> TrainConfig:
        """The loop's settings."""
        steps = self.steps(row_length)
        share = self.warmup_share if self.warmup_tokens is None else self.warmup_tokens / self.tokens
        return TrainConfig(
            **{field.name: getattr(self, field.name) for field in fields(Descent)},
            steps=steps,
            batch_rows=self.rows(row_length),
            lr=self.lr,
            warmup=min(steps - 1, round(share * steps)),
            seed=seed,
            dtype=self.dtype,
            validate_every=max(1, steps // self.validations),
            checkpoint_seconds=self.saving.seconds,
            checkpoint_keep=self.saving.keep,
            checkpoint_in_background=self.saving.in_background,
            keep_best=self.saving.best,
        )
