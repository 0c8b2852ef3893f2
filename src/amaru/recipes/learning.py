"""How long and how hard to train, in the words of a recipe; the loop's own settings follow from it."""

from typing import Literal

from pydantic import Field

from amaru.config import Config
from amaru.train.loop import TrainConfig


class Learning(Config):
    """`Learning(tokens=2_000_000, lr=1e-3)`.

    tokens        how many to train on; steps follow from them, batch_rows and the rows' length
    warmup_share  share of the steps in which the learning rate rises; then it falls to `final_lr_share` of `lr`
    dtype         of the arithmetic; weights and optimizer state stay fp32
    validations   how often the loss on validation rows is taken along the way
    """

    tokens: int = Field(default=2_000_000, gt=0)
    batch_rows: int = Field(default=8, gt=0)
    lr: float = Field(default=1e-3, gt=0)
    warmup_share: float = Field(default=0.05, ge=0, lt=1)
    schedule: Literal["cosine", "wsd"] = "cosine"
    final_lr_share: float = Field(default=0.01, ge=0, le=1)
    weight_decay: float = Field(default=0.1, ge=0)
    clip: float = Field(default=1.0, gt=0)
    dtype: Literal["bf16", "fp32"] = "bf16"
    validations: int = Field(default=8, gt=0)

    def steps(self, row_length: int) -> int:
        """Whole steps that see at least `tokens` tokens."""
        return max(1, -(-self.tokens // (self.batch_rows * row_length)))

    def training(self, row_length: int, seed: int) -> TrainConfig:
        """The loop's settings."""
        steps = self.steps(row_length)
        return TrainConfig(
            steps=steps,
            batch_rows=self.batch_rows,
            lr=self.lr,
            warmup=min(steps - 1, round(self.warmup_share * steps)),
            schedule=self.schedule,
            final_lr_share=self.final_lr_share,
            weight_decay=self.weight_decay,
            clip=self.clip,
            seed=seed,
            dtype=self.dtype,
            validate_every=max(1, steps // self.validations),
        )
