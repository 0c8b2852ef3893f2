"""Training from text to checkpoint: `amaru train`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from amaru.config import Config
from amaru.data.loader import in_order
from amaru.data.tokenizer import Tokenizer
from amaru.errors import ConfigError
from amaru.eval.perplexity import evaluate, token_bytes
from amaru.models import cost
from amaru.models.checkpoint import Checkpoint, fingerprint, load
from amaru.models.decoder import Decoder, DecoderConfig
from amaru.models.pattern import pattern_of
from amaru.recipes.fit import fit, steps_for
from amaru.recipes.run import Run, recipe_fingerprint
from amaru.recipes.shape import Shape
from amaru.recipes.text import Text, TextRecipe, prepare
from amaru.train.loop import TrainConfig
from amaru.train.objective import CrossEntropy


class TrainRecipe(Config):
    """`TrainRecipe(text=TextRecipe(data=("stories/",)), tokens=2_000_000)`.

    shape     the model, when it is new
    start     a checkpoint to go on from instead; its tokenizer is used
    tokens    how many to train on; steps follow from them, batch_rows and row_length
    """

    text: TextRecipe
    shape: Shape = Shape()
    start: str | None = None
    tokens: int = Field(default=2_000_000, gt=0)
    batch_rows: int = Field(default=8, gt=0)
    lr: float = Field(default=2e-3, gt=0)
    warmup_share: float = Field(default=0.05, ge=0, lt=1)
    schedule: str = Field(default="cosine", pattern="^(cosine|wsd)$")
    final_lr_share: float = Field(default=0.01, ge=0, le=1)
    weight_decay: float = Field(default=0.1, ge=0)
    clip: float = Field(default=1.0, gt=0)
    dtype: str = Field(default="bf16", pattern="^(bf16|fp32)$")
    validations: int = Field(default=8, ge=0)
    seed: int = Field(default=0, ge=0)

    @property
    def training(self) -> TrainConfig:
        """The settings of the loop."""
        steps = steps_for(self.tokens, self.batch_rows, self.text.row_length)
        return TrainConfig(
            steps=steps,
            batch_rows=self.batch_rows,
            lr=self.lr,
            warmup=min(steps - 1, round(self.warmup_share * steps)),
            schedule=self.schedule,  # type: ignore[arg-type]
            final_lr_share=self.final_lr_share,
            weight_decay=self.weight_decay,
            clip=self.clip,
            seed=self.seed,
            dtype=self.dtype,  # type: ignore[arg-type]
            validate_every=max(1, steps // self.validations) if self.validations else None,
        )


@dataclass(frozen=True)
class Trained:
    """The finished checkpoint and what it reached on all validation rows."""

    checkpoint: Path
    text: Text
    summary: dict[str, Any]


def train_model(recipe: TrainRecipe, run: Run, name: str = "model") -> Trained:
    """Text, tokenizer, packing, training, evaluation; finished steps are kept in the run directory."""
    tokenizer = Tokenizer.load(recipe.start) if recipe.start else None
    text = prepare(recipe.text, run, tokenizer)
    config = starting_config(recipe, text.tokenizer)
    run.progress.note(f"  model: {describe(config)}")
    made_from = {"start": fingerprint(recipe.start)} if recipe.start else {"shape": repr(config), "seed": str(recipe.seed)}
    checkpoint = fit(run, name, text, recipe.training, lambda: _start(recipe, config), CrossEntropy, made_from)

    def measure() -> dict[str, Any]:
        decoder = load(checkpoint)
        found = evaluate(decoder, in_order(text.validation, recipe.batch_rows), token_bytes=token_bytes(text.tokenizer))
        return {"loss": found.loss, "next_token_accuracy": found.next_token_accuracy, "bits_per_byte": found.bits_per_byte}

    measured = run.result(f"{name}-evaluation", {"checkpoint": fingerprint(checkpoint), "text": text.fingerprint}, measure)
    summary = {"checkpoint": str(checkpoint), "parameters": cost.parameters(config), "tokens": recipe.training.steps * tokens_a_step(recipe)}
    return Trained(checkpoint, text, summary | measured)


def tokens_a_step(recipe: TrainRecipe) -> int:
    return recipe.batch_rows * recipe.text.row_length


def starting_config(recipe: TrainRecipe, tokenizer: Tokenizer) -> DecoderConfig:
    """The model's layer tuple; raises `ConfigError` when a checkpoint has fewer tokens than its tokenizer."""
    if recipe.start is None:
        return recipe.shape.resolve(tokenizer.vocab_size)
    config = Checkpoint(recipe.start).config
    if config.vocab < tokenizer.vocab_size:
        raise ConfigError(f"{recipe.start} has {config.vocab} embeddings, but its tokenizer knows {tokenizer.vocab_size} tokens.")
    return config


def describe(config: DecoderConfig) -> str:
    """`pattern M-M*-, hidden 256, 7.6 M parameters`."""
    return f"pattern {pattern_of(config.layers)}, hidden {config.hidden}, {cost.parameters(config) / 1e6:.2f} M parameters"


def default_directory(kind: str, recipe: Config) -> Path:
    """The same settings find the same run again."""
    return Path("runs") / f"{kind}-{recipe_fingerprint(recipe)[:8]}"


def _start(recipe: TrainRecipe, config: DecoderConfig) -> Decoder:
    if recipe.start is None:
        return Decoder(config).initialise(recipe.seed)
    return load(recipe.start, torch.float32)
