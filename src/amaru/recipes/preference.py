"""The settings of preference optimisation: from which comparisons, towards what, and held to which reference."""

from typing import Literal

from pydantic import Field

from amaru.adapters import LoRA, Method, TiedLoRA
from amaru.align.rows import TooLong
from amaru.align.terms import Terms
from amaru.config import Config
from amaru.errors import ConfigError
from amaru.recipes.learning import Learning

LEARNING = Learning(lr=1e-6, batch_rows=16, weight_decay=0.0, warmup_share=0.03, final_lr_share=0.1, expert_balance=0.0)


class Against(Config):
    """`Against(by="live")`: the reference, which the trained model is held to.

    model      a checkpoint with the same tokenizer; None: the one that training starts from
    by         cached: its log-probabilities are computed first and kept; live: it runs along, in memory beside the trained model;
               adapter: the trained model with its adapter switched off
    directory  where cached ones are kept, for several runs of the same data; None: in the run directory
    """

    model: str | None = None
    by: Literal["cached", "live", "adapter"] = "cached"
    directory: str | None = None

    def check(self) -> None:
        if self.by == "adapter" and self.model is not None:
            raise ConfigError("An adapter switched off leaves what training started from; leave reference.model out, or reference.by.")
        if self.by != "cached" and self.directory is not None:
            raise ConfigError(f"reference.directory is where a cached reference is kept; leave it out with {self.by}.")


class PreferRecipe(Config):
    """`PreferRecipe(start="runs/sft/model", data=("pairs.jsonl",), terms=Terms(method="rpo", beta=0.1), template="chatml")`.

    start             the checkpoint, with its tokenizer
    data              comparisons in .jsonl, .json or .parquet: paths, directories or globs
    held_out          others that are only measured; none: `validation_share` of the prompts is
    reward            attributes and their weights, whose sum is the reward; None: the scores in the data
    by_rewards        rows whose rewards contradict the order of their answers go by the rewards, instead of being dropped
    scores            files of comparisons from which rewards are taken, by prompt and answer
    trained_on        conversations that the model was fine-tuned on; prompts that are among them are told, or dropped
    terms             which loss
    reference         what the model is held to
    lora, tied_lora   what is trained, one of them; neither: every weight
    template          as for fine-tuning; None takes the tokenizer's own
    longest           tokens of a prompt with an answer; `too_long` ones are dropped, or cut
    epochs            how often each comparison is seen
    learning          as for training; `batch_rows` are comparisons, and epochs decide how long
    """

    start: str
    data: tuple[str, ...] = ()
    held_out: tuple[str, ...] = ()
    reward: dict[str, float] | None = None
    by_rewards: bool = False
    scores: tuple[str, ...] = ()
    trained_on: tuple[str, ...] = ()
    shared_prompts: Literal["tell", "drop"] = "tell"
    terms: Terms = Terms()
    reference: Against = Against()
    lora: LoRA | None = None
    tied_lora: TiedLoRA | None = None
    template: str | None = None
    longest: int = Field(default=2048, ge=2)
    too_long: TooLong = "drop"
    validation_share: float = Field(default=0.05, gt=0, lt=1)
    epochs: float = Field(default=1.0, gt=0)
    learning: Learning = LEARNING
    seed: int = Field(default=0, ge=0)

    def check(self) -> None:
        if self.lora is not None and self.tied_lora is not None:
            raise ConfigError("One method is trained at a time; give lora or tied_lora.")
        if self.reference.by == "adapter" and self.method is None:
            raise ConfigError("There is no adapter to switch off; give lora or tied_lora, or reference.by=cached.")
        if self.method is not None and self.learning.expert_balance:
            raise ConfigError("expert_balance moves biases of the base, which an adapter leaves alone; leave it at 0.")
        if self.learning.tokens != Learning().tokens or self.learning.batch_tokens is not None:
            raise ConfigError("Epochs of comparisons decide how long it takes; leave learning.tokens and batch_tokens out.")

    @property
    def method(self) -> Method | None:
        """None: every weight is trained."""
        return self.lora or self.tied_lora

    @property
    def held_to(self) -> str:
        return self.reference.model or self.start
