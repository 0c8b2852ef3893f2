"""How a reward model is trained, in one strict config; and what the head tells and reads, which follows from it and the data."""

from collections.abc import Sequence
from dataclasses import replace

from pydantic import Field

from amaru.align.comparisons import Comparison
from amaru.align.reward.labels import counted
from amaru.config import Config
from amaru.data.chat import Template
from amaru.data.templates import BUILT_IN, for_others, template_of
from amaru.data.tokenizer import Tokenizer
from amaru.errors import ConfigError
from amaru.models.reward.attributes import SCALAR, Attributes, weights_of
from amaru.models.reward.checkpoint import Objective, Said, is_reward, said_of
from amaru.models.reward.prompts import LABELLED, SYSTEM, Pooled, Prompts
from amaru.recipes.learning import Learning
from amaru.recipes.text import tokenizer_of
from amaru.train.settings import TrainConfig

LEARNING = Learning(lr=1e-5, batch_rows=128, micro_tokens=16384, warmup_share=0.03, final_lr_share=1.0, expert_balance=0.0)


class RewardRecipe(Config):
    """`RewardRecipe(start="runs/sft/model", data=("helpsteer2.jsonl",), add_special_tokens=True)`.

    start               the checkpoint that is trained: a language model, or a reward model that goes on with its head
    data                rated or compared answers in .jsonl, .json or .parquet: paths, directories or globs
    objective           regression: the squared error of every label; bradley-terry: which of two answers is better
    attributes          what is told, in this order; None: all that the data has labels of, or `reward` for bradley-terry
    unused              attributes that have a place and no labels, as Nemotron-4-340B-Reward has four
    weights             of the sum; None: those published for HelpSteer's attributes
    range               what labels lie between; None: any number
    better_by           bradley-terry on rated answers: weights of the attributes whose sum says which is better
    pool                where the score is read: the label prefix of Nemotron-4, or the end of turn of the model's chat template
    system              sentence in front of a conversation that has none, at the label prefix; None: the published one
    template            chatml, nemotron4, or a file; for end-of-turn, where the tokenizer has none of its own
    add_special_tokens  control tokens that the tokenizer lacks are added, with rows of the model for them
    longest             tokens of a prompt with its answer; longer ones are left out
    only_head           the decoder stays as it is
    limit               so many prompts are learned from, chosen by a hash; None: all
    validation_share    of prompts; all answers to one are on the same side
    epochs              how often each answer is seen
    """

    start: str
    data: tuple[str, ...] = Field(min_length=1)
    objective: Objective = "regression"
    attributes: tuple[str, ...] | None = Field(default=None, min_length=1)
    unused: tuple[str, ...] = ()
    weights: dict[str, float] | None = Field(default=None, min_length=1)
    range: tuple[float, float] | None = (0.0, 4.0)
    better_by: dict[str, float] | None = Field(default=None, min_length=1)
    pool: Pooled = "label-prefix"
    system: str | None = None
    template: str | None = None
    add_special_tokens: bool = False
    longest: int = Field(default=2048, ge=2)
    only_head: bool = False
    limit: int | None = Field(default=None, gt=0)
    validation_share: float = Field(default=0.05, gt=0, lt=1)
    epochs: float = Field(default=2.0, gt=0)
    learning: Learning = LEARNING
    seed: int = Field(default=0, ge=0)

    def check(self) -> None:
        if self.learning.tokens != Learning().tokens or self.learning.batch_tokens is not None:
            raise ConfigError("Epochs and learning.batch_rows (answers, or pairs) decide how long it takes; leave tokens out.")
        if self.pool == "end-of-turn" and self.system is not None:
            raise ConfigError("A system sentence belongs to the label prefix; for end-of-turn the chat template says what stands in front.")
        if self.pool == "label-prefix" and self.template is not None:
            raise ConfigError("At the label prefix answers are put as Nemotron-4-340B-Reward reads them; a template is for end-of-turn.")
        if self.objective == "bradley-terry" and (len(self.attributes or SCALAR) > 1 or self.unused or self.weights):
            raise ConfigError("Which of two answers is better is one number, so bradley-terry has one attribute and no weights.")
        if self.objective == "regression" and self.better_by:
            raise ConfigError("better_by makes comparisons of rated answers for bradley-terry; regression learns the ratings themselves.")

    @property
    def pairs(self) -> bool:
        return self.objective == "bradley-terry"

    @property
    def unit(self) -> str:
        return "pairs" if self.pairs else "labels"

    def training(self, rows: int, row_length: int) -> TrainConfig:
        """The loop's settings: epochs over the rows, in whole steps."""
        steps = max(1, -(-round(self.epochs * rows) // self.learning.batch_rows))
        tokens = steps * self.learning.batch_rows * row_length
        return replace(self.learning, tokens=tokens).training(row_length, self.seed)


def said_by(recipe: RewardRecipe, some: Sequence[Comparison]) -> Said:
    """What the reward model will say of itself. Raises `ConfigError` where the recipe contradicts the reward model that it goes on from."""
    if is_reward(recipe.start):
        return _kept(recipe, some)
    lowest, highest = recipe.range or (None, None)
    if recipe.pairs:
        (name,) = recipe.attributes or SCALAR
        attributes = Attributes(names=(name,), weights={name: 1.0})
    else:
        names = recipe.attributes or (*counted(some), *recipe.unused)
        if not names:
            raise ConfigError("No answer is rated, so there is nothing to regress on; for answers that are compared give bradley-terry.")
        weights = weights_of(names, recipe.weights)
        attributes = Attributes(names=names, weights=weights, unused=recipe.unused, lowest=lowest, highest=highest)
    system = SYSTEM if recipe.system is None else recipe.system
    return Said(attributes=attributes, objective=recipe.objective, pooled=recipe.pool, system=system)


def _kept(recipe: RewardRecipe, some: Sequence[Comparison]) -> Said:
    """What the reward model that the recipe goes on from says of itself, but for the weights."""
    said = said_of(recipe.start)
    attributes, told = said.attributes, f"{recipe.start} is a reward model of {', '.join(said.attributes.names)}"
    if recipe.attributes not in (None, attributes.names) or recipe.unused not in ((), attributes.unused):
        raise ConfigError(f"{told}, in this order, and the recipe asks for other attributes; leave them out.")
    if recipe.objective != said.objective:
        raise ConfigError(f"{told} by {said.objective}, and the recipe asks for {recipe.objective}; go on with the same objective.")
    if strange := [] if recipe.pairs else [name for name in counted(some) if name not in attributes.names]:
        raise ConfigError(f"{told}, but the data has labels of {', '.join(strange)}; begin a new one from a language model.")
    if (recipe.pool, recipe.system or said.system) != (said.pooled, said.system):
        raise ConfigError(f"{recipe.start} is read at the {said.pooled}, with a system sentence of its own; leave both out.")
    return replace(said, attributes=replace(attributes, weights=recipe.weights or attributes.weights))


def prompts_of(recipe: RewardRecipe, said: Said) -> Prompts:
    """How conversations are put to it; its tokenizer has control tokens added if the recipe says so.

    Raises `DataError` for a tokenizer that lacks them, or a template.
    """
    tokenizer = Tokenizer.load(recipe.start) if is_reward(recipe.start) else tokenizer_of(recipe.start)
    if recipe.pool == "label-prefix":
        return Prompts(_extended(recipe, Template(LABELLED, tokenizer)), said.pooled, said.system)
    if recipe.template is not None:
        template = template_of(recipe.template, tokenizer)
        template = Template(template.source, _extended(recipe, template))
        source = for_others(template.source) if recipe.template in BUILT_IN else template.source
        tokenizer = template.tokenizer.with_chat(source, template.ending())
    return Prompts(tokenizer, said.pooled)


def _extended(recipe: RewardRecipe, template: Template) -> Tokenizer:
    return template.tokenizer.with_special(template.unknown) if recipe.add_special_tokens and template.unknown else template.tokenizer
