"""How many times the student's tokens its shape needs from scratch (Minitron-SSM: 40 times fewer with pruning and distillation)."""

from amaru.config.records import read_record
from amaru.models.checkpoint import Checkpoint
from amaru.models.decoder import Decoder
from amaru.recipes.reproduce.compression import axes
from amaru.recipes.reproduce.compression.strand import Record, Strand


def measure(strand: Strand, multiple: int, lr: float) -> Record:
    """The twin of the student that was cut along every axis: fresh weights, on a multiple of the student's tokens."""
    config = Checkpoint(strand.run.path(axes.name_of(axes.EVERY))).config
    name, tokens = f"scratch-x{multiple}-lr{lr:g}", multiple * strand.recipe.learning.tokens
    checkpoint = strand.from_scratch(name, lambda: Decoder(config).initialise(strand.seed), tokens, lr)
    return {"multiple": multiple, "tokens": tokens, "lr": lr, **strand.quality(name, checkpoint)}


def at_best_rate(strand: Strand, multiple: int) -> Record:
    """The same at the learning rate that was best at the first multiple."""
    first = strand.recipe.multiples[0]
    tried = [read_record(strand.run.path(f"cell-scratch-{first}-{lr:g}.json")) for lr in strand.recipe.scratch_lrs]
    return measure(strand, multiple, min(tried, key=lambda record: record["loss"])["lr"])
