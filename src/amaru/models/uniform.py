"""Every layer of a kind padded to one width, so that a config which holds one number for all of them can say the model.

Padding is surgery run backwards: a tensor of ours goes to the rows of the padded one that a cut to our widths would keep,
and all else is zero. Zeros are harmless (a head without rows gives nothing, and nothing reads it) but for two divisors:

- Attention divides by sqrt(c) for c channels of q and k; with c' of them q is multiplied by sqrt(c'/c).
- The gated norm divides by the root of its mean square over the n channels of a group. Over n' channels, n' - n of them
  zero, the mean square m becomes m n/n'; its weight is multiplied by sqrt(n/n'), which leaves

      w sqrt(n/n') y / sqrt(m n/n' + eps)  =  w y / sqrt(m + eps n'/n)

  in place of w y / sqrt(m + eps): smaller by (n'/n - 1) eps / (2 m) of its value. With eps = 1e-5 and n'/n = 4/3 that is
  2e-6 for m = 1 and 6e-5 for m = 0.03, which a small trained model has. Nothing in a mixer can take it back: the squares
  of padded channels only add, y passes a SiLU on every path that could scale it, and eps is one number for all norms.
  (A factor fitted to seeded tokens instead of sqrt(n/n') took 1.3e-4 down to 0.9e-4 only, so it is not worth a run.) So
  a conversion proves the padding against the source with eps n'/n in its norms, and says how far that is from eps.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from amaru.axes import Selection
from amaru.config import to_dict
from amaru.errors import ConfigError
from amaru.models.checkpoint import kept
from amaru.models.decoder import Decoder, DecoderConfig
from amaru.models.families import family_for, nemotron_h, own
from amaru.models.source import Source
from amaru.nn.attention import Attention
from amaru.nn.layer import LayerConfig
from amaru.nn.mamba2 import Mamba2
from amaru.nn.mlp import MLP
from amaru.nn.moe import MoE

# Axes that zeros may lengthen, by kind of layer; a layer of another kind, or with another axis, must have one width as it is.
PADDED: dict[type[LayerConfig], set[str]] = {
    Mamba2: {"group", "head", "channel", "state"},
    Attention: {"kv_group", "query", "qk_channel", "v_channel"},
    MLP: {"ffn"},
    MoE: {"expert_ffn", "shared_ffn", "latent"},  # a router that knows more experts would choose others
}


def uniform_config(config: DecoderConfig) -> DecoderConfig:
    """The same stack with every layer of a kind as wide as the widest of them in each axis; one that is published as it is stays.

    Raises `ConfigError` naming the axis and the layers for widths that zeros cannot make equal, and for a stack that no
    published `config.json` could say at one width either.
    """
    if family_for(config) is not own:
        return config
    padded = {kind: _widest(kind, [layer for layer in config.layers if type(layer) is kind]) for kind in set(map(type, config.layers))}
    uniform = replace(config, layers=tuple(padded[type(layer)] for layer in config.layers))
    if family_for(uniform) is own:
        raise ConfigError(f"One width for all layers of a kind does not make this stack a published one: {nemotron_h.refuses(uniform)}.")
    return uniform


def _widest(kind: type[LayerConfig], layers: list[Any]) -> Any:
    axes = [layer.axes() for layer in layers]
    if any(found.keys() != axes[0].keys() for found in axes):
        raise _unlike(kind, layers)
    sizes = {name: max(found[name].size for found in axes) for name in axes[0]}
    for name, size in sizes.items():
        differs = any(found[name].size != size for found in axes)
        if differs and (name not in PADDED.get(kind, ()) or axes[0][name].fixed):
            widths = sorted({found[name].size for found in axes})
            raise ConfigError(f"The axis '{name}' of {kind.__name__} layers has the widths {widths} here, and zeros cannot lengthen it.")
    widest = [layer.resized(sizes) for layer in layers]
    if any(layer != widest[0] for layer in widest):
        raise _unlike(kind, widest)
    return widest[0]


def _unlike(kind: type[LayerConfig], layers: list[Any]) -> ConfigError:
    said = [to_dict(layer) for layer in layers]
    values = {name: list(dict.fromkeys(str(each[name]) for each in said)) for name in said[0]}
    differing = "; ".join(f"{name} is {' and '.join(found)}" for name, found in values.items() if len(found) > 1)
    return ConfigError(f"{kind.__name__} layers differ here in what zeros cannot make equal: {differing}.")


class Uniform:
    """`Uniform(Checkpoint("student"))`: a source whose layers of a kind all have one width, and the same function.

    `dtype` None keeps stored dtypes, in which the two factors are rounded too.
    """

    def __init__(self, source: Source, dtype: torch.dtype | None = None) -> None:
        self.path: Path = source.path
        self.config = uniform_config(source.config)
        self._source, self._dtype = source, dtype
        self._ours, self._padded = source.config.tensors(), self.config.tensors()

    @property
    def names(self) -> list[str]:
        return list(self._padded)

    def dtype(self, name: str) -> torch.dtype:
        return kept(self._ours[name][0], self._dtype) if self._dtype else self._source.dtype(name)

    def read(self, name: str) -> Tensor:
        tensor, factor = self._source.read(name).to(self.dtype(name)), self._factor(name)
        if factor != 1:
            tensor = (tensor.double() * factor).to(tensor.dtype)
        for dimension, rows in enumerate(self._rows(name)):
            if rows is not None:
                shape = list(tensor.shape)
                shape[dimension] = self._padded[name][0].layout.shape(self._padded[name][1])[dimension]
                tensor = tensor.new_zeros(shape).index_copy_(dimension, torch.tensor(rows), tensor)
        return tensor

    @property
    def exact(self) -> bool:
        """Whether no gated norm was padded, so that nothing is left of eps."""
        pairs = zip(self._source.config.layers, self.config.layers, strict=True)
        return all(_norm_factor(ours, padded) == 1 for ours, padded in pairs if isinstance(ours, Mamba2) and isinstance(padded, Mamba2))

    def with_its_eps(self, decoder: Decoder) -> None:
        """Give the source's decoder, in place, the eps that its padded gated norms amount to: then both are one function."""
        for layer, ours, padded in zip(decoder.layers, self._source.config.layers, self.config.layers, strict=True):
            if isinstance(ours, Mamba2) and isinstance(padded, Mamba2):
                layer.mixer.norm_eps /= _norm_factor(ours, padded) ** 2  # type: ignore[union-attr, operator]

    def _rows(self, name: str) -> tuple[np.ndarray | None, ...]:
        """Where ours lie in each dimension of the padded tensor; None where that is as wide as ours."""
        (spec, axes), ours = self._padded[name], self._ours[name][1]
        widened = {axis: Selection(np.arange(ours[axis].size)) for axis in axes if ours[axis].size != axes[axis].size}
        return spec.layout.surviving(axes, widened)

    def _factor(self, name: str) -> float:
        """What a tensor is multiplied by, because a divisor grew."""
        if not name.startswith("layers."):
            return 1.0
        _, index, _, rest = name.split(".", 3)
        ours, padded = self._source.config.layers[int(index)], self.config.layers[int(index)]
        factor = FACTORS.get((type(ours), rest))
        return factor(ours, padded) if factor else 1.0


def _norm_factor(ours: Mamba2, padded: Mamba2) -> float:
    return math.sqrt((ours.inner // ours.groups) / (padded.inner // padded.groups))


def _query_factor(ours: Attention, padded: Attention) -> float:
    return math.sqrt(padded.channels / ours.channels)


FACTORS: dict[tuple[type[LayerConfig], str], Callable[[Any, Any], float]] = {
    (Mamba2, "norm.weight"): _norm_factor,
    (Attention, "q_proj.weight"): _query_factor,
    (Attention, "q_proj.bias"): _query_factor,
}
