"""Rotary position embedding: pairs of channels of q and k turn by an angle that grows with the token's place."""

import functools
import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from amaru.config import Config
from amaru.errors import ConfigError
from amaru.ops.rotary import rotary


class Llama3Scaling(Config):
    """Llama 3.1: slow pairs are slowed down `factor` times, fast ones stay, those between are blended.

    A pair is slow when it turns fewer than `low` times within `original` tokens, fast when more than `high` times.
    """

    kind: Literal["llama3"] = "llama3"
    factor: float = Field(gt=0, allow_inf_nan=False)
    low: float = Field(gt=0, allow_inf_nan=False)
    high: float = Field(gt=0, allow_inf_nan=False)
    original: int = Field(gt=0)

    def check(self) -> None:
        if self.low >= self.high:
            raise ConfigError(f"Llama3Scaling.low must be below high; got {self.low} and {self.high}.")

    def frequencies(self, base: float, channels: int) -> Tensor:
        plain = plain_frequencies(base, channels)
        turns = self.original / (2 * math.pi / plain)
        blend = ((turns - self.low) / (self.high - self.low)).clamp(0, 1)
        return (1 - blend) * plain / self.factor + blend * plain  # in this order the roundings are those of transformers


class NTKScaling(Config):
    """Hymba: the base grows so that the slowest pair covers `extended` tokens where it covered `original`.

    base' = base (factor extended / original - (factor - 1)) ^ (channels / (channels - 2))
    """

    kind: Literal["ntk"] = "ntk"
    factor: float = Field(gt=0, allow_inf_nan=False)
    original: int = Field(gt=0)
    extended: int = Field(gt=0)

    def frequencies(self, base: float, channels: int) -> Tensor:
        stretch = self.factor * self.extended / self.original - (self.factor - 1)
        return plain_frequencies(base * stretch ** (channels / (channels - 2)), channels)


class Rope(Config):
    """`Rope(base=500000.0)`: rotate the first `fraction` of a head's channels, channel i together with i + half of them.

    base      of the geometric series of frequencies
    fraction  of the channels that rotate; the rest pass (0.5 in Nemotron-4)
    scaling   how frequencies are changed for contexts longer than those first trained on
    """

    base: float = Field(default=10000.0, gt=1, allow_inf_nan=False)
    fraction: float = Field(default=1.0, gt=0, le=1)
    scaling: Annotated[Llama3Scaling | NTKScaling, Field(discriminator="kind")] | None = None

    def rotated(self, channels: int) -> int:
        """How many of `channels` rotate; raises `ConfigError` when they do not pair up."""
        count = int(channels * self.fraction)
        if count < 2 or count % 2 or (self.scaling and self.scaling.kind == "ntk" and count < 4):
            raise ConfigError(f"Rope rotates pairs of channels; {self.fraction:g} of {channels} leaves {count}, which cannot be paired.")
        return count

    def frequencies(self, channels: int) -> Tensor:
        """[rotated / 2] radians per token, in float32, which is what these models are trained with."""
        return _frequencies(self, channels)

    def __call__(self, x: Tensor, positions: Tensor) -> Tensor:
        """x [T, heads, channels], positions [T] -> x with its first channels rotated; angles in at least float32."""
        return rotary(x, *self.turns(positions, x.shape[-1], torch.promote_types(x.dtype, torch.float32)))

    def turns(self, positions: Tensor, channels: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosines and sines of the angles, [T, rotated / 2] each: the same for every layer."""
        angles = positions.to(dtype)[:, None] * self.frequencies(channels).to(positions.device, dtype)
        return angles.cos(), angles.sin()


def plain_frequencies(base: float, channels: int) -> Tensor:
    """base ^ (-2 i / channels) for each pair i."""
    return 1 / base ** (torch.arange(0, channels, 2, dtype=torch.float32) / channels)


@functools.cache
def _frequencies(rope: Rope, channels: int) -> Tensor:
    with torch.device("cpu"):
        rotated = rope.rotated(channels)
        return rope.scaling.frequencies(rope.base, rotated) if rope.scaling else plain_frequencies(rope.base, rotated)
