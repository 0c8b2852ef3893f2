"""Hugging Face directories: which family a `config.json` speaks of, and its translation to and from layer tuples."""

import difflib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

from amaru.errors import CheckpointError
from amaru.models import nemotron_h
from amaru.models.decoder import DecoderConfig

FAMILIES: dict[str, ModuleType] = {family.MODEL_TYPE: family for family in (nemotron_h,)}


def presets() -> dict[str, DecoderConfig]:
    """Every published shape by name."""
    return {name: config for family in FAMILIES.values() for name, config in family.presets().items()}


def config_of(model: str | Path) -> DecoderConfig:
    """`config_of("nemotron-h-8b")`, or of a checkpoint directory: its `config.json` alone is read.

    Raises `CheckpointError` for a name that is neither, listing the presets.
    """
    if Path(model).is_dir():
        values = read_json(Path(model) / "config.json")
        return family_of(values).read_config(values)
    known = presets()
    if str(model) not in known:
        close = difflib.get_close_matches(str(model), known, n=1)
        hint = f"Did you mean '{close[0]}'?" if close else f"Presets are: {', '.join(known)}."
        raise CheckpointError(f"'{model}' is neither a checkpoint directory nor a preset. {hint}")
    return known[str(model)]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; `CheckpointError` when it is missing or not one."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"There is no {path.name} in {path.parent}; a checkpoint is a directory with config.json and *.safetensors."
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError, NotADirectoryError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}.") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds a {type(values).__name__}; a JSON object is needed.")
    return values


def family_of(values: dict[str, Any]) -> ModuleType:
    """The family that a `config.json` names; `CheckpointError` lists the known ones."""
    model_type = values.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise CheckpointError(f"config.json says model_type {model_type!r}; amaru knows {', '.join(FAMILIES)}.")
    return FAMILIES[model_type]


def family_for(config: DecoderConfig) -> ModuleType:
    """The family that can hold this stack on disk."""
    return nemotron_h
