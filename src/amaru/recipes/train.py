"""Training from text to checkpoint: `amaru train`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from amaru.config import Config, to_dict
from amaru.errors import ConfigError
from amaru.models import cost
from amaru.models.checkpoint import Checkpoint, fingerprint, load
from amaru.models.decoder import Decoder, DecoderConfig
from amaru.models.pattern import pattern_of
from amaru.recipes.compare import quality
from amaru.recipes.fit import fit
from amaru.recipes.learning import Learning
from amaru.recipes.run import Run
from amaru.recipes.shape import Shape
from amaru.recipes.text import VOCAB, Text, TextRecipe, gather, prepare, tokenizer_of
from amaru.train.objective import CrossEntropy


class TrainRecipe(Config):
    """`TrainRecipe(text=TextRecipe(data=("stories/",)), learning=Learning(tokens=2_000_000))`.

    shape     the model, when it is new
    start     a checkpoint to go on from instead; its tokenizer is used
    """

    text: TextRecipe = Field(default_factory=TextRecipe)
    shape: Shape = Shape()
    start: str | None = None
    learning: Learning = Learning()
    seed: int = Field(default=0, ge=0)

    def check(self) -> None:
        if self.start is not None and self.shape != Shape():
            raise ConfigError(
                f"The model of {self.start} has its own shape; leave --pattern, --hidden and shape.* out, or leave --from out."
            )


@dataclass(frozen=True)
class Trained:
    """The finished checkpoint and what it reached on all validation rows."""

    checkpoint: Path
    text: Text
    summary: dict[str, Any]


def train_model(recipe: TrainRecipe, run: Run, name: str = "model") -> Trained:
    """Text, tokenizer, packing, training, evaluation; finished steps are kept in the run directory."""
    tokenizer = tokenizer_of(recipe.start) if recipe.start else None
    text = prepare(recipe.text, run, tokenizer)
    config = Checkpoint(recipe.start).config if recipe.start else recipe.shape.resolve(text.tokenizer.vocab_size)
    run.progress.note(f"  model: {describe(config)}")
    made_from = {"start": fingerprint(recipe.start)} if recipe.start else {"shape": repr(config), "seed": str(recipe.seed)}
    training = recipe.learning.training(text.training.row_length, recipe.seed)
    checkpoint = fit(run, name, text, training, lambda: _start(recipe, config), CrossEntropy, made_from)
    summary = {
        "checkpoint": str(checkpoint),
        "parameters": cost.parameters(config),
        "tokens": training.steps * training.batch_rows * text.training.row_length,
    }
    return Trained(checkpoint, text, summary | quality(run, name, checkpoint, text, recipe.learning.dtype))


def describe(config: DecoderConfig) -> str:
    """`pattern M-M*-, hidden 256, 7.6 M parameters`."""
    return f"pattern {pattern_of(config.layers)}, hidden {config.hidden}, {cost.parameters(config) / 1e6:.2f} M parameters"


def forecast(recipe: TrainRecipe, directory: Path) -> dict[str, Any]:
    """What the run would do, from settings and text alone: the resolved recipe, tokens, steps, epochs, parameters, memory."""
    corpus = gather(recipe.text)
    config = Checkpoint(recipe.start).config if recipe.start else recipe.shape.resolve(recipe.text.vocab or VOCAB)
    training = recipe.learning.training(recipe.text.row_length, recipe.seed)
    parameters, tokens_a_step = cost.parameters(config), training.batch_rows * recipe.text.row_length
    return {
        "out": str(directory),
        "text": str(corpus.summary),
        "model": describe(config),
        "parameters": parameters,
        "steps": training.steps,
        "tokens": training.steps * tokens_a_step,
        "training_flops": 3 * cost.forward_flops(config, recipe.text.row_length // 2) * training.steps * tokens_a_step,
        "weights_gradients_and_optimizer_bytes": 16 * parameters,
        "recipe": to_dict(recipe),
    }


def _start(recipe: TrainRecipe, config: DecoderConfig) -> Decoder:
    if recipe.start is None:
        return Decoder(config).initialise(recipe.seed)
    return load(recipe.start, torch.float32)
