"""A new model in a few words, a pattern and a width, with everything else in proportion unless said; or as a file writes it out."""

from pathlib import Path

import yaml
from pydantic import Field

from amaru.config import Config, from_dict
from amaru.errors import ConfigError
from amaru.models.decoder import DecoderConfig
from amaru.models.families import config_of, family_of, read_json
from amaru.models.pattern import layers_from_pattern
from amaru.nn.attention import Attention
from amaru.nn.layer import LayerConfig
from amaru.nn.mamba2 import Mamba2
from amaru.nn.mlp import MLP


class Shape(Config):
    """`Shape(pattern="M-M*-", hidden=256)`: a Nemotron-H of that width.

    Left out, widths follow Nemotron-H-8B's proportions: ffn 4 x hidden, Mamba inner width 2 x hidden, attention as
    wide as hidden with a quarter of its query heads for keys and values.
    """

    pattern: str = Field(default="M-M-M*-M-M-", min_length=1)
    hidden: int = Field(default=256, gt=0)
    ffn: int | None = Field(default=None, gt=0)
    mamba_heads: int | None = Field(default=None, gt=0)
    mamba_channels: int = Field(default=32, gt=0)
    groups: int = Field(default=4, gt=0)
    state: int = Field(default=64, gt=0)
    query_heads: int | None = Field(default=None, gt=0)
    kv_heads: int | None = Field(default=None, gt=0)
    attention_channels: int = Field(default=32, gt=0)

    def resolve(self, vocab: int) -> DecoderConfig:
        """The layer tuple; raises `ConfigError` when widths do not fit each other."""
        query_heads = self.query_heads or max(1, self.hidden // self.attention_channels)
        layers: dict[str, LayerConfig] = {
            "M": Mamba2(
                heads=self.mamba_heads or self._heads(),
                channels=self.mamba_channels,
                groups=self.groups,
                state=self.state,
            ),
            "*": Attention(query_heads=query_heads, kv_heads=self.kv_heads or max(1, query_heads // 4), channels=self.attention_channels),
            "-": MLP(ffn=self.ffn or 4 * self.hidden),
        }
        return DecoderConfig(vocab=vocab, hidden=self.hidden, layers=layers_from_pattern(self.pattern, layers))  # type: ignore[arg-type]

    def _heads(self) -> int:
        """Inner width 2 x hidden, in whole heads for every group."""
        return max(1, round(2 * self.hidden / self.mamba_channels / self.groups)) * self.groups


def written(model: str | Path) -> DecoderConfig:
    """`written("hymba-1.5b")`, a checkpoint directory, a `config.json`, or YAML of a `DecoderConfig` with its tuple of layers.

    Raises `ConfigError` for a file that is neither, `CheckpointError` for a config.json that asks for what is not there.
    """
    file = Path(model)
    if not file.is_file():
        return config_of(model)
    try:
        values = read_json(file) if file.suffix == ".json" else yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not valid YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{file} holds a {type(values).__name__}; a model is a mapping: vocab, hidden, layers.")
    return family_of(values).read_config(values) if "model_type" in values else from_dict(DecoderConfig, values)
