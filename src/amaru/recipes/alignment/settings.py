"""The settings of `amaru align`: fine-tuning in stages, then rounds of preferences or of a larger model's answers."""

from typing import Annotated, Literal

from pydantic import Field

from amaru.adapters import LoRA
from amaru.align.rounds import Answering, Gate
from amaru.align.terms import Terms
from amaru.config import Config
from amaru.data.chat_packing import TooLong
from amaru.distill.terms import Terms as Teaching
from amaru.errors import ConfigError
from amaru.recipes.learning import Learning
from amaru.recipes.preference import LEARNING as PREFERRING
from amaru.recipes.preference import Against
from amaru.recipes.sft import LEARNING, Stage

TAKEN = ("start", "sft", "comparison", "steps", "run")  # by files of the run directory
NAME = r"^[a-z][a-z0-9-]*$"
REVERSE = Teaching(divergence="reverse_kl")


class Judging(Config):
    """`Judging(reward_model="runs/reward/model")`: who tells answers apart, each asked where those before it cannot.

    verify          instructions and right answers of the prompts are checked
    verifier        a function of one's own beside them, `checks.py:passes`: a prompt's record and an answer in, 0 to 1 out
    reward_model    a checkpoint of `amaru reward train`
    judge_model     a checkpoint that compares two answers, asked in both orders; where they disagree there is no verdict
    judge_template  its chat template, where its tokenizer has none
    """

    verify: bool = True
    verifier: str | None = None
    reward_model: str | None = None
    judge_model: str | None = None
    judge_template: str | None = None

    def check(self) -> None:
        if not (self.verify or self.verifier or self.reward_model or self.judge_model):
            raise ConfigError("Somebody must judge: leave judging.verify on, or give a verifier, a reward_model or a judge_model.")


class Round(Config):
    """What both kinds of rounds have.

    name       of the round and of what it leaves behind
    prompts    .jsonl or .parquet files; answers to them are drawn from the model as it is when the round begins
    times      so often, each beginning with what the one before made: name-1, name-2 and so on
    limit      so many prompts each time, drawn anew by a hash of the round's name; None: all
    answering  how answers are drawn
    learning   as for training, but that epochs decide how long; answers are drawn in its arithmetic
    epochs     how often each comparison or answer is seen
    """

    name: str = Field(pattern=NAME)
    prompts: tuple[str, ...] = Field(min_length=1)
    times: int = Field(default=1, gt=0)
    limit: int | None = Field(default=None, gt=0)
    answering: Answering = Answering()
    learning: Learning = LEARNING
    epochs: float = Field(default=1.0, gt=0)

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name,) if self.times == 1 else tuple(f"{self.name}-{number}" for number in range(1, self.times + 1))


class Preferences(Round):
    """`Preferences(kind="preference", name="rpo", times=3, prompts=("prompts.jsonl",), loss=Terms(method="rpo"))`: answers of the model
    are judged and compared, and it learns which are better. It begins with the model before it, which is also its reference.

    loss       dpo, ipo or rpo, with beta, eta and the weight of the SFT term
    reference  whether its log-probabilities are computed first, or it runs along
    lora       what is trained; None: every weight
    others     further checkpoints whose answers are compared with its own
    judging    who tells answers apart
    gate       what the chosen answer must be; strict first (1.0), then looser
    answers    of a comparison: 2 are the best and the worst
    learning   its `batch_rows` are comparisons
    """

    kind: Literal["preference"]
    loss: Terms = Terms()
    reference: Against = Against()
    lora: LoRA | None = None
    others: tuple[str, ...] = ()
    judging: Judging = Judging()
    gate: Gate = Gate()
    answers: int = Field(default=2, ge=2)
    learning: Learning = PREFERRING

    def check(self) -> None:
        if self.answering.samples * (1 + len(self.others)) < 2:
            raise ConfigError(f"Round {self.name} draws one answer of one model to each prompt; two are needed to compare.")
        if self.reference.model is not None:
            raise ConfigError(f"Round {self.name} is held to the model before it; leave reference.model out.")
        _no_tokens(self.name, self.learning)


class OnPolicy(Round):
    """`OnPolicy(kind="distillation", name="taught", prompts=("prompts.jsonl",), teacher="large/model")`: a larger model tells at every
    token of the model's own answers what it would have said.

    teacher   a checkpoint with the same tokenizer
    loss      the divergence; reverse KL, as on-policy distillation has it
    """

    kind: Literal["distillation"]
    teacher: str
    loss: Teaching = REVERSE
    answering: Answering = Answering(samples=1)

    def check(self) -> None:
        _no_tokens(self.name, self.learning)


class AlignRecipe(Config):
    """`AlignRecipe(start="runs/base/model", template="chatml", sft=(Stage(...),), rounds=(Preferences(...),))`.

    start                the checkpoint that is aligned, with its tokenizer
    template             chatml, nemotron4, plain, or a file with a jinja template; None takes the tokenizer's own
    add_special_tokens   control tokens that the template writes and the tokenizer lacks are added
    sft                  stages of fine-tuning (code, then general with a replay of code); none where the start has been fine-tuned
    sft_learning         of these stages; held-out prompts are answered in its arithmetic
    rounds               in their order, each from the model of the one before
    held_out             prompts that can be verified; every model answers them, greedily
    held_out_tokens      of such an answer, at most
    overlap              prompts of rounds that fine-tuning has seen, or that are held out: refuse the run, or drop them and say how many
    row_length           tokens of a row in fine-tuning, and of a prompt with its answer in rounds
    too_long             what becomes of longer ones: drop, or cut turns
    """

    start: str
    template: str | None = None
    add_special_tokens: bool = False
    sft: tuple[Stage, ...] = ()
    sft_learning: Learning = LEARNING
    rounds: tuple[Annotated[Preferences | OnPolicy, Field(discriminator="kind")], ...] = ()
    held_out: tuple[str, ...] = ()
    held_out_tokens: int = Field(default=512, gt=0)
    overlap: Literal["refuse", "drop"] = "refuse"
    row_length: int = Field(default=2048, ge=2)
    too_long: TooLong = "drop"
    validation_share: float = Field(default=0.05, gt=0, lt=1)
    seed: int = Field(default=0, ge=0)

    def check(self) -> None:
        if not self.sft and not self.rounds:
            raise ConfigError("There is nothing to do: give sft stages, rounds, or both.")
        names = [name for each in self.rounds for name in each.names]
        if twice := sorted({name for name in names if names.count(name) > 1} | ({*TAKEN} & {*names})):
            raise ConfigError(f"Rounds are names of files, each its own; got {', '.join(twice)} twice, or one that is taken.")


def _no_tokens(name: str, learning: Learning) -> None:
    if learning.tokens != Learning().tokens:
        raise ConfigError(f"In round {name} epochs decide how long it takes; leave learning.tokens out.")
