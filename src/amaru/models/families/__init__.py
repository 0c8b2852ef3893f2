"""Model families: which one a `config.json` speaks of, which one can write a stack of layers, and the published shapes by name.

A family is one module with

    MODEL_TYPES                 what `model_type` says
    TIES_HEAD                   stock readers make a tied head themselves, so it is not written
    LAYERS_PER_BLOCK            our layers (a norm and a mixer) per layer of the stock model
    presets()                   published shapes by name
    read_config, write_config   `config.json` <-> `DecoderConfig`
    refuses(config)             None, or why its `config.json` cannot say this stack
    stored(config)              every tensor of a checkpoint: its name in the file, and ours
    canonical(name)             the one name for the names that files in the wild use
"""

import difflib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

from amaru.errors import CheckpointError
from amaru.models.decoder import DecoderConfig
from amaru.models.families import hymba, llama, nemotron4, nemotron_h, own
from amaru.models.families.fields import read_json
from amaru.models.families.stored import Stored

__all__ = ["FAMILIES", "Stored", "config_of", "family_for", "family_of", "presets", "read_json"]

# `family_for` takes the first that does not refuse; `own` refuses nothing.
ORDER: tuple[ModuleType, ...] = (nemotron_h, nemotron4, llama, hymba, own)
REWARD = "amaru_reward"  # model_type of a decoder with a head that scores (models/reward)
FIELD = "quantization_config"  # of a config.json whose weights are codes (models/quantised.py)
FAMILIES: dict[str, ModuleType] = {model_type: family for family in ORDER for model_type in family.MODEL_TYPES}


def presets() -> dict[str, DecoderConfig]:
    """Every published shape by name."""
    return {name: config for family in ORDER for name, config in family.presets().items()}


def config_of(model: str | Path) -> DecoderConfig:
    """`config_of("nemotron-h-8b")`, or of a checkpoint directory: its `config.json` alone is read.

    Raises `CheckpointError` for a name that is neither, listing the presets.
    """
    if Path(model).is_dir():
        values = read_json(Path(model) / "config.json")
        if values.get("model_type") == REWARD and isinstance(values.get("decoder"), dict):
            values = values["decoder"]  # a reward model has the shape of its decoder
        return family_of(values).read_config(values)
    if Path(model).is_file():
        raise CheckpointError(f"{model} is a file; a checkpoint directory is needed. `amaru convert {model} OUT --to hf` makes one.")
    known = presets()
    if str(model) not in known:
        close = difflib.get_close_matches(str(model), known, n=1)
        hint = f"Did you mean '{close[0]}'?" if close else f"Presets are: {', '.join(known)}."
        raise CheckpointError(f"'{model}' is neither a checkpoint directory nor a preset. {hint}")
    return known[str(model)]


def family_of(values: dict[str, Any]) -> ModuleType:
    """The family that a `config.json` names; `CheckpointError` lists the known ones, and refuses codes that other programs wrote."""
    model_type = values.get("model_type")
    if model_type == REWARD:
        raise CheckpointError(
            "This checkpoint is a reward model, which scores answers and writes none: `amaru reward score`, `amaru reward eval` and "
            "`amaru serve` open it."
        )
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise CheckpointError(f"config.json says model_type {json.dumps(model_type)[:80]}; amaru knows {', '.join(FAMILIES)}.")
    _check_writer(values.get(FIELD))
    return FAMILIES[model_type]


def _check_writer(said: Any) -> None:
    method = said.get("quant_method") if isinstance(said, dict) else None
    if said is not None and method != "amaru":
        raise CheckpointError(
            f"config.json has a {FIELD} of {str(method or 'an unnamed program')[:40]}; amaru reads codes that `amaru quantize` wrote, so "
            "take the checkpoint that this one was made from."
        )


def family_for(config: DecoderConfig) -> ModuleType:
    """The family that can hold this stack on disk: a published one where its config can say it, else amaru's own."""
    return next(family for family in ORDER if family.refuses(config) is None)
