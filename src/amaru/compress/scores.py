"""What calibration leaves behind: the importance of every index that may be dropped, and of every layer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from amaru.config import Artifact
from amaru.errors import ArtifactError, ConfigError
from amaru.models.decoder import DecoderConfig

SCHEMA = 2
HOW = ("samples", "tokens", "ffn_read", "fluctuation", "layers_by")


@dataclass(frozen=True, kw_only=True, eq=False)
class Scores:
    """`score(decoder, samples)` makes it; any number of cuts are planned from it without another forward pass.

    hidden      [hidden] importance of each channel of the residual stream
    within      for each layer, by the expression that was read: an array of one importance per index combination,
                e.g. {"group x head x channel": [groups, heads per group, channels]} or {"ffn": [ffn]}
    means       in the same form, the mean activation of what was scored by its fluctuation: what a bias could make up for
    vocab       [vocab] how often each token occurs in the calibration text
    layers      [layers] importance of each layer by its removal, or None until measured (`removal`)
    removals    by metric, the same of every metric that was measured
    samples, tokens, ffn_read, fluctuation, layers_by    how it was measured
    made_from   fingerprints of the checkpoint and the calibration text
    """

    hidden: np.ndarray
    within: tuple[dict[str, np.ndarray], ...]
    means: tuple[dict[str, np.ndarray], ...] = ()
    vocab: np.ndarray | None = None
    layers: np.ndarray | None = None
    removals: dict[str, np.ndarray] = field(default_factory=dict)
    samples: int
    tokens: int
    ffn_read: str
    fluctuation: tuple[str, ...] = ()
    layers_by: str | None = None
    made_from: dict[str, str]

    def with_layers(self, removals: Mapping[str, np.ndarray], by: str) -> "Scores":
        """These and the importance of layers, by one of the metrics in which it was measured."""
        return replace(self, layers=removals[by], removals=dict(removals), layers_by=by)

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
        arrays = {"hidden": self.hidden, **_named("layers", self.within), **_named("means", self.means)}
        arrays |= {f"removals.{metric}": array for metric, array in self.removals.items()}
        arrays |= {name: array for name in ("layers", "vocab") if (array := getattr(self, name)) is not None}
        content = {"count": len(self.within), "how": {name: getattr(self, name) for name in HOW}}
        Artifact(kind="scores", schema=SCHEMA, made_from=self.made_from, content=content, arrays=arrays).save(path)

    @classmethod
    def load(cls, path: str | Path, made_from: dict[str, str] | None = None) -> "Scores":
        """Read scores; raises `ArtifactError` unless they were made from `made_from` where that is given."""
        artifact = Artifact.load(path, kind="scores", schema=SCHEMA)
        artifact.require(made_from or {}, path)
        arrays = artifact.arrays
        try:
            how = dict(artifact.content["how"])
            how["fluctuation"] = tuple(how["fluctuation"])
            within, means = (_of_layers(prefix, arrays, artifact.content["count"]) for prefix in ("layers", "means"))
            removals = {name.removeprefix("removals."): array for name, array in arrays.items() if name.startswith("removals.")}
            single = {name: arrays.get(name) for name in ("layers", "vocab")}
            return cls(
                hidden=arrays["hidden"], within=within, means=means, removals=removals, made_from=artifact.made_from, **single, **how
            )
        except (KeyError, ValueError, IndexError, TypeError) as error:
            raise ArtifactError(f"{path} lacks a part of the scores ({error}); delete it and run the same command again.") from None


def _named(prefix: str, layers: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {f"{prefix}.{index}.{name}": array for index, layer in enumerate(layers) for name, array in layer.items()}


def _of_layers(prefix: str, arrays: Mapping[str, np.ndarray], count: int) -> tuple[dict[str, np.ndarray], ...]:
    found: list[dict[str, np.ndarray]] = [{} for _ in range(count)]
    for name, array in arrays.items():
        place, _, rest = name.partition(".")
        if place == prefix and rest:
            index, expression = rest.split(".", 1)
            found[int(index)][expression] = array
    return tuple(found)
