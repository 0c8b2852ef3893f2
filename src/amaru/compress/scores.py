"""What calibration leaves behind: the importance of every index that may be dropped, and of every layer."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from amaru.config import Artifact
from amaru.errors import ArtifactError, ConfigError
from amaru.models.decoder import DecoderConfig

SCHEMA = 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Scores:
    """`score(decoder, samples)` makes it; any number of cuts are planned from it without another forward pass.

    hidden      [hidden] importance of each channel of the residual stream
    within      for each layer, by the expression that was read: an array of one importance per index combination,
                e.g. {"group x head x channel": [groups, heads per group, channels]} or {"ffn": [ffn]}
    layers      [layers] importance of each layer by its removal, or None until measured (`removal`)
    samples, tokens, ffn_read, layers_by    how it was measured
    made_from   fingerprints of the checkpoint and the calibration text
    """

    hidden: np.ndarray
    within: tuple[dict[str, np.ndarray], ...]
    layers: np.ndarray | None = None
    samples: int
    tokens: int
    ffn_read: str
    layers_by: str | None = None
    made_from: dict[str, str]

    def check(self, config: DecoderConfig) -> None:
        """Raise `ConfigError` unless these scores are about a model of this shape."""
        if len(self.within) != len(config.layers) or self.hidden.shape != (config.hidden,):
            raise ConfigError(
                f"These scores are of a model with {len(self.within)} layers and hidden {len(self.hidden)}; "
                f"this one has {len(config.layers)} and {config.hidden}."
            )
        for index, (layer, arrays) in enumerate(zip(config.layers, self.within, strict=True)):
            for expression, array in arrays.items():
                axes = expression.split(" x ")
                if any(name not in layer.axes() for name in axes) or array.shape != tuple(layer.axes()[name].size for name in axes):
                    raise ConfigError(
                        f"These scores have [{expression}] of shape {list(array.shape)} in layer {index}, which is {layer.describe()}."
                    )

    def save(self, path: str | Path) -> None:
        arrays = {f"layers.{index}.{name}": array for index, layer in enumerate(self.within) for name, array in layer.items()}
        arrays["hidden"] = self.hidden
        if self.layers is not None:
            arrays["layers"] = self.layers
        how = {"samples": self.samples, "tokens": self.tokens, "ffn_read": self.ffn_read, "layers_by": self.layers_by}
        content = {"count": len(self.within), "how": how}
        Artifact(kind="scores", schema=SCHEMA, made_from=self.made_from, content=content, arrays=arrays).save(path)

    @classmethod
    def load(cls, path: str | Path, made_from: dict[str, str] | None = None) -> "Scores":
        """Read scores; raises `ArtifactError` unless they were made from `made_from` where that is given."""
        artifact = Artifact.load(path, kind="scores", schema=SCHEMA)
        artifact.require(made_from or {}, path)
        arrays = dict(artifact.arrays)
        try:
            hidden, layers = arrays.pop("hidden"), arrays.pop("layers", None)
            within: list[dict[str, np.ndarray]] = [{} for _ in range(artifact.content["count"])]
            for name, array in arrays.items():
                _, index, expression = name.split(".", 2)
                within[int(index)][expression] = array
            return cls(hidden=hidden, within=tuple(within), layers=layers, made_from=artifact.made_from, **artifact.content["how"])
        except (KeyError, ValueError, IndexError, TypeError) as error:
            raise ArtifactError(f"{path} lacks a part of the scores ({error}); delete it and run the same command again.") from None
