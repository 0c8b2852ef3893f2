"""amaru's own config: any tuple of layers, written out. For widths that differ from layer to layer and whatever else no
published `config.json` can say; transformers reads it after `import amaru.models.hf`."""

import json
from collections.abc import Mapping
from typing import Any

from amaru.config import from_dict, to_dict
from amaru.errors import CheckpointError, ConfigError
from amaru.models.decoder import DecoderConfig
from amaru.models.families.fields import wrong
from amaru.models.families.stored import Stored

MODEL_TYPES = ("amaru",)
TIES_HEAD = True
LAYERS_PER_BLOCK = 1


def presets() -> dict[str, DecoderConfig]:
    return {}


def refuses(config: DecoderConfig) -> str | None:
    return None


def read_config(values: Mapping[str, Any]) -> DecoderConfig:
    """The field `stack`, exactly as `write_config` wrote it; fields that stand beside it for other readers must say the same."""
    try:
        config = from_dict(DecoderConfig, values.get("stack"))
    except ConfigError as error:
        raise CheckpointError(f"config.json describes no stack: {error}") from None
    for name, value in _beside(config).items():
        if values.get(name, value) != value:
            raise wrong(name, values[name], f"its stack says {json.dumps(value)}")
    return config


def write_config(config: DecoderConfig) -> dict[str, Any]:
    return {"architectures": ["AmaruForCausalLM"], "model_type": MODEL_TYPES[0], **_beside(config), "stack": to_dict(config)}


def _beside(config: DecoderConfig) -> dict[str, Any]:
    return {
        "vocab_size": config.vocab,
        "hidden_size": config.hidden,
        "num_hidden_layers": len(config.layers),
        "max_position_embeddings": config.max_positions,
        "tie_word_embeddings": config.tied,
    }


def stored(config: DecoderConfig) -> list[Stored]:
    return [Stored(name, name) for name in config.tensors()]


def canonical(name: str) -> str:
    return name
