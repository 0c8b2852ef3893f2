"""The settings of the training loop."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from amaru.config import Config, to_dict
from amaru.errors import ConfigError
from amaru.train.guard import Guard
from amaru.train.schedule import WSD_DECAY_SHARE, Fall, cosine, wsd


class Descent(Config):
    """What a step does with a batch, and how steps change along the way: said alike in a recipe and to the loop.

    The defaults are Nemotron-H's where the paper gives them.

    micro_tokens    at most so many tokens at once (but a whole row at least): larger batches are accumulated
    recompute_every so many layers one keeps only what it reads, and is run again in the backward pass (`Decoder`)
    schedule        cosine: falls from the warm-up on, to `final_lr_share`; wsd: in the last `decay_share` of the steps, as `decay` says
    betas, eps      of AdamW; `weight_decay` is that of matrices, vectors have none
    clip            largest norm of the gradient
    expert_balance  how far the bias of an expert moves in a step (`Balance`); 0 leaves it where it is
    guard           what happens to loss spikes and NaN
    """

    micro_tokens: int | None = Field(default=None, gt=0)
    recompute_every: int | None = Field(default=None, gt=0)
    schedule: Literal["cosine", "wsd"] = "cosine"
    final_lr_share: float = Field(default=0.01, ge=0, le=1)
    decay_share: float = Field(default=WSD_DECAY_SHARE, gt=0, le=1)
    decay: Fall = "linear"
    weight_decay: float = Field(default=0.1, ge=0)
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = Field(default=1e-8, gt=0)
    clip: float = Field(default=1.0, gt=0)
    expert_balance: float = Field(default=1e-3, ge=0)
    guard: Guard = Guard()

    def check(self) -> None:
        name = type(self).__name__
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"{name}.betas must lie in 0 <= beta < 1; got {self.betas}.")
        if self.schedule == "cosine" and (self.decay, self.decay_share) != ("linear", WSD_DECAY_SHARE):
            raise ConfigError(f"{name}.decay and decay_share belong to schedule wsd; a cosine falls over all steps after the warm-up.")
        if self.schedule == "wsd" and self.decay == "exponential" and self.final_lr_share == 0:
            raise ConfigError(f"{name}.final_lr_share must be above 0 for an exponential decay, which never reaches 0.")


class TrainConfig(Descent):
    """How to train.

        TrainConfig(steps=900, batch_rows=16, lr=8e-4, warmup=50)

    batch_rows      of the first phase; others have their own (`Batches.phase`)
    dtype           of the arithmetic; weights stay fp32
    validate_every  steps; None: after the last one only
    checkpoint_...  how often the state is saved, how many of the newest are kept beside the best validated (`keep_best`), and
                    whether a thread writes them while training goes on
    """

    steps: int = Field(gt=0)
    batch_rows: int = Field(gt=0)
    lr: float = Field(gt=0)
    warmup: int = Field(default=0, ge=0)
    seed: int = Field(default=0, ge=0)
    dtype: Literal["bf16", "fp32"] = "fp32"
    validate_every: int | None = Field(default=None, gt=0)
    checkpoint_seconds: float = Field(default=60.0, ge=0)
    checkpoint_keep: int = Field(default=2, gt=0)
    checkpoint_in_background: bool = False
    keep_best: bool = False

    def check(self) -> None:
        if self.warmup >= self.steps:
            raise ConfigError(f"TrainConfig.warmup must be less than steps; got {self.warmup} and {self.steps}.")
        super().check()

    def lr_at(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        lengths = {"steps": self.steps, "warmup": self.warmup, "final_share": self.final_lr_share}
        if self.schedule == "cosine":
            return self.lr * cosine(step, **lengths)
        return self.lr * wsd(step, **lengths, decay_share=self.decay_share, fall=self.decay)

    def deciding(self) -> dict[str, Any]:
        """What decides the result: not how the state is saved, what is run again, nor where the guard stops instead of skipping."""
        apart = ("keep_best", "recompute_every")
        values = {name: value for name, value in to_dict(self).items() if not name.startswith("checkpoint_") and name not in apart}
        return values | {"guard": guarded(values["guard"])}


def guarded(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A guard's settings by what they do to a run that goes on: one that stopped may go on by skipping."""
    return {name: "skip" if value == "stop" else value for name, value in settings.items() if name != "most_skipped"}
