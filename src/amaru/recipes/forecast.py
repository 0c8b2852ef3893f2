"""What a training run would do and need, from its settings alone: `amaru train --dry-run`."""

from pathlib import Path
from typing import Any

import psutil
import torch

from amaru.config import to_dict
from amaru.data.blend import schedule
from amaru.errors import DataError
from amaru.models import cost
from amaru.models.decoder import DecoderConfig
from amaru.models.training_memory import Footing, training_memory
from amaru.recipes.device import device_named
from amaru.recipes.pace import STEPS, matmul_rate, training_pace
from amaru.recipes.text import outlook
from amaru.recipes.train import TrainRecipe, describe
from amaru.train.settings import TrainConfig
from amaru.train.step import passes

ASSUMED_MFU = 0.4  # where nothing is measured; Nemotron-4 reports 41 % on 6,144 GPUs
MEASURED_SECONDS = 5.0  # of a step, at most, and
MEASURED_SHARE = 0.25  # of the memory that is free, for a pace to be measured


def forecast(recipe: TrainRecipe, directory: Path, device: str = "cpu") -> dict[str, Any]:
    """The resolved recipe, parameters by kind, tokens, steps, phases, memory, and the time it takes: measured, or from FLOPs."""
    text, vocab = _text(recipe)
    config = recipe.architecture(vocab)
    training = recipe.learning.training(recipe.text.row_length, recipe.seed)
    tokens = training.steps * training.batch_rows * recipe.text.row_length
    phases = _phases(recipe, training)
    at_once = _tokens_at_once(training, recipe.text.row_length, phases)
    memory = training_memory(config, Footing(tokens=at_once, bf16=training.dtype == "bf16"))
    flops = 3 * cost.forward_flops(config, recipe.text.row_length // 2) * tokens
    return {
        "out": str(directory),
        "text": text,
        "model": describe(config),
        "parameters": cost.parameters(config),
        "active_parameters": cost.active_parameters(config),
        "parameters_by_kind": cost.parameters_by_kind(config),
        "tokens": tokens,
        "steps": training.steps,
        "batch": {"rows": training.batch_rows, "row_length": recipe.text.row_length, "tokens_at_once": at_once},
        "warmup_steps": training.warmup,
        "phases": phases,
        "memory": to_dict(memory),
        "training_flops": flops,
        "time": _time(recipe, config, memory.total, flops, tokens, training, device_named(device)),
        "recipe": to_dict(recipe),
    }


def _text(recipe: TrainRecipe) -> tuple[str, int]:
    """What is said about the text, and the size of the vocabulary; a recipe can be weighed before its text is there."""
    try:
        return outlook(recipe.tokenised())
    except DataError as error:
        return f"not there yet: {error}", recipe.tokenised().vocab or recipe.architecture(0 if recipe.start else 4096).vocab


def _phases(recipe: TrainRecipe, training: TrainConfig) -> list[dict[str, Any]]:
    mixed = recipe.text.mixed()
    if mixed is None:
        return []
    batch_tokens = training.batch_rows * recipe.text.row_length
    found = schedule(mixed.phases, training.steps * batch_tokens, batch_tokens, recipe.text.row_length)
    return [{**vars(phase), "weights": {name: round(weight, 4) for name, weight in phase.weights.items()}} for phase in found]


def _tokens_at_once(training: TrainConfig, row_length: int, phases: list[dict[str, Any]]) -> int:
    """Of the largest micro-batch of any phase."""
    shapes = [(phase["batch_rows"], phase["row_length"]) for phase in phases] or [(training.batch_rows, row_length)]
    return max(rows // passes(rows, length, training.micro_tokens) * length for rows, length in shapes)


def _time(
    recipe: TrainRecipe, config: DecoderConfig, needed: int, flops: int, tokens: int, training: TrainConfig, device: torch.device
) -> dict[str, Any]:
    """Measured for a model that is small enough, on a CPU; else reckoned."""
    rate = matmul_rate(training.dtype, device)
    step_seconds = flops / training.steps / rate
    if device.type == "cpu" and needed < MEASURED_SHARE * psutil.virtual_memory().available and step_seconds < MEASURED_SECONDS:
        pace = training_pace(config, recipe.learning, recipe.text.row_length)
        return {"seconds": tokens / pace, "by": f"{pace:,.0f} tokens/s, measured now over {STEPS} steps on random text"}
    seconds = flops / (ASSUMED_MFU * rate)
    by = f"{flops:.3g} FLOPs at {ASSUMED_MFU:.0%} of the matmul rate of this machine's {device}, {rate:.3g} FLOP/s measured now"
    return {"seconds": seconds, "by": by}
