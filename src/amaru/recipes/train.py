"""Training from text to checkpoint: `amaru train`."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import Field

from amaru.config import Config
from amaru.errors import ConfigError
from amaru.models import cost
from amaru.models.checkpoint import Checkpoint, fingerprint
from amaru.models.decoder import Decoder, DecoderConfig
from amaru.models.pattern import pattern_of
from amaru.precision.fp8 import Fp8Recipe
from amaru.recipes.compare import quality
from amaru.recipes.fit import fit
from amaru.recipes.fp8 import training_in
from amaru.recipes.learning import Learning
from amaru.recipes.run import Run
from amaru.recipes.shape import Shape, written
from amaru.recipes.team import From, Start
from amaru.recipes.text import Text, TextRecipe, prepare, tokenizer_of
from amaru.train.metrics import StepMetrics
from amaru.train.objective import CrossEntropy

Watch = Callable[[StepMetrics], None]


class TrainRecipe(Config):
    """`TrainRecipe(text=TextRecipe(data=("stories/",)), learning=Learning(tokens=2_000_000))`.

    shape     the model, when it is new and a Nemotron-H
    model     instead: a preset such as hymba-1.5b, a config.json, or YAML of a tuple of layers; its vocabulary is the tokenizer's
    start     a checkpoint to go on from instead; its tokenizer is used
    init_std  of a new model's matrices; None: sqrt(0.8 / hidden), which is Nemotron-H's
    fp8       projections in 8 bits as Nemotron-H-56B had them; None: everything in `learning.dtype`
    """

    text: TextRecipe = Field(default_factory=TextRecipe)
    shape: Shape = Shape()
    model: str | None = None
    start: str | None = None
    learning: Learning = Learning()
    init_std: float | None = Field(default=None, gt=0)
    fp8: Fp8Recipe | None = None
    seed: int = Field(default=0, ge=0)

    def check(self) -> None:
        if self.model is not None and self.start is not None:
            raise ConfigError(f"Either go on from {self.start}, or begin with the shape of {self.model}; leave --from or --config out.")
        if (self.start or self.model) is not None and self.shape != Shape():
            raise ConfigError(
                f"The model of {self.start or self.model} has its own shape; leave --pattern, --hidden and shape.* out, or name no model."
            )
        if self.start is not None and self.init_std is not None:
            raise ConfigError("init_std is for a new model; leave it out with --from.")

    def tokenised(self) -> TextRecipe:
        """The text, with a tokenizer of the model's size where one is to be learned and nothing is said."""
        learned = all(source.kind == "text" for source in self.text.sources().values())
        if self.model is None or self.text.vocab is not None or not learned:
            return self.text
        return replace(self.text, vocab=written(self.model).vocab)

    def architecture(self, vocab: int) -> DecoderConfig:
        """The model for a tokenizer of so many tokens."""
        if self.start:
            return Checkpoint(self.start).config
        return replace(written(self.model), vocab=vocab) if self.model else self.shape.resolve(vocab)


@dataclass(frozen=True)
class Trained:
    """The finished checkpoint and what it reached on all validation rows."""

    checkpoint: Path
    text: Text
    summary: dict[str, Any]


def train_model(recipe: TrainRecipe, run: Run, name: str = "model", *, watch: Watch = lambda metrics: None) -> Trained:
    """Text, tokenizer, packing, training, evaluation; finished steps are kept in the run directory. `watch` gets every step."""
    tokenizer = tokenizer_of(recipe.start) if recipe.start else None
    text = prepare(recipe.tokenised(), run, tokenizer)
    config = recipe.architecture(text.tokenizer.vocab_size)
    run.progress.note(f"  model: {describe(config)}")
    new = {"shape": repr(config), "seed": str(recipe.seed), "init": str(recipe.init_std)}
    made_from = ({"start": fingerprint(recipe.start)} if recipe.start else new) | {"fp8": repr(recipe.fp8)}
    training = recipe.learning.training(text.row_length, recipe.seed)
    batches = text.batches(training.steps, training.batch_rows, training.seed)
    start, watch = training_in(recipe.fp8, _start(recipe, config), run, name, training.steps, watch)
    checkpoint = fit(run, name, text, training, start, CrossEntropy, made_from, batches=batches, watch=watch)
    drawn = batches.drawn(training.steps)
    for each in drawn:
        run.progress.note(f"  {each.source}: {each.tokens:,} tokens drawn, {each.epochs:.3g} times the whole")
    summary = {
        "checkpoint": str(checkpoint),
        "parameters": cost.parameters(config),
        "tokens": training.steps * training.batch_rows * text.row_length,
        "drawn": [vars(each) for each in drawn],
    }
    return Trained(checkpoint, text, summary | quality(run, name, checkpoint, text, recipe.learning.dtype))


def describe(config: DecoderConfig) -> str:
    """`pattern M-M*-, hidden 256, 7.6 M parameters`."""
    return f"pattern {pattern_of(config.layers)}, hidden {config.hidden}, {cost.parameters(config) / 1e6:.2f} M parameters"


def _start(recipe: TrainRecipe, config: DecoderConfig) -> Start:
    return From(recipe.start) if recipe.start else lambda: Decoder(config).initialise(recipe.seed, recipe.init_std)
