"""The settings of the claims of alignment: the model, how much it sees, and how each stage learns."""

from pydantic import Field

from amaru.align.rounds import Answering, Gate
from amaru.align.terms import Terms
from amaru.config import Config
from amaru.errors import ConfigError
from amaru.recipes.learning import Learning
from amaru.recipes.shape import Shape

SMALL = Shape(pattern="M-*-M-*-", hidden=64, groups=2, mamba_channels=32, state=32, attention_channels=32)
LARGE = Shape(pattern="M-*-M-*-", hidden=128, groups=2, mamba_channels=32, state=32, attention_channels=32)
TUNING = Learning(lr=6e-3, batch_rows=4, dtype="fp32", validations=2)
PREFERRING = Learning(lr=5e-4, batch_rows=16, dtype="fp32", validations=2, weight_decay=0.0, warmup_share=0.1, final_lr_share=0.1)


class AlignmentClaims(Config):
    """`AlignmentClaims()`: three seeds of a model of 0.27 M parameters in a world of requests that a program can check.

    A seed decides requests, answers, first weights and orders. Every stage begins with the model before it.

    small, large   shapes of the model, and of the one that learns from it
    learned        conversations of fine-tuning, of whose answers `wrong` is the share that a careless person gave
    prompts        that each of the four rounds asks, chosen anew from so many times as many as there are rounds
    held_out       requests on which every model is measured
    tuning         of fine-tuning, with its epochs; `larger_rate` is the large model's learning rate
    preferring     of all stages of preferences
    strict, loose  gates of DPO and of RPO
    noise          standard deviation of what is added to every reward where rewards are noisy; a right answer has 1
    rated          prompts from all answers to which reward models learn, in ascending order; `rating` says how, in `rating_epochs`
    """

    small: Shape = SMALL
    large: Shape = LARGE
    vocab: int = Field(default=700, ge=300)
    learned: int = Field(default=8000, gt=0)
    wrong: float = Field(default=0.4, ge=0, le=1)
    prompts: int = Field(default=1000, gt=0)
    held_out: int = Field(default=512, gt=0)
    row_length: int = Field(default=128, gt=1)
    tuning: Learning = TUNING
    epochs: float = Field(default=3.0, gt=0)
    larger_rate: float = Field(default=4e-3, gt=0)
    answering: Answering = Answering(samples=6, max_tokens=40, at_once=100)
    preferring: Learning = PREFERRING
    dpo: Terms = Terms(method="dpo", beta=0.1, sft=0.01)
    rpo: Terms = Terms(method="rpo", beta=0.1, eta=4.0, sft=0.01)
    strict: Gate = Gate(verified=1.0)
    loose: Gate = Gate(verified=0.5)
    noise: float = Field(default=0.5, gt=0)
    rated: tuple[int, ...] = (50, 200, 800)
    rating: Learning = Learning(lr=1e-3, batch_rows=32, dtype="fp32", validations=2, weight_decay=0.0, expert_balance=0.0)
    rating_epochs: float = Field(default=3.0, gt=0)
    seeds: tuple[int, ...] = (0, 1, 2)

    def check(self) -> None:
        if len(set(self.seeds)) < 2 or len(set(self.seeds)) < len(self.seeds):
            raise ConfigError(f"An interval needs at least two different seeds; got {list(self.seeds)}.")
        if list(self.rated) != sorted(set(self.rated)) or not self.rated:
            raise ConfigError(f"rated must be numbers of prompts, ascending; got {list(self.rated)}.")
