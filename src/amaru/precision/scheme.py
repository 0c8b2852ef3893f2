"""Which weights of a model become codes, of which kind, and what that does to its bytes."""

import math
import re
from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field

from amaru.config import Config
from amaru.errors import ConfigError
from amaru.models.decoder import DecoderConfig
from amaru.models.quantised import Encodings, projections
from amaru.ops.quantised_linear import GROUPS, Encoding, Kind

Format = Literal["int8", "int4", "fp8"]


class Scheme(Config):
    """`Scheme(to="int4", group=64, keep=("attention", r"layers\\.0\\."))`: what a model's projections become.

    to      int8, fp8 (E4M3): a scale for each row; int4: one for each group of columns
    group   columns that share a scale in 4 bits: 32, 64 or 128
    head    of a head of its own; None: int8 where `to` is int4, whose error at the logits nothing behind it makes good, else `to`
    keep    projections that stay as they are: kinds of layers (mamba2, attention, mlp, moe, hybrid_head), or regular expressions that are
            searched in the names of weights
    """

    to: Format
    group: Literal[32, 64, 128] = GROUPS[0]
    head: Format | None = None
    keep: tuple[str, ...] = Field(default=())

    def encodings(self, config: DecoderConfig) -> dict[str, Encoding]:
        """By the name of every weight that becomes codes what it becomes.

        Raises `ConfigError` for something to keep that is nowhere, and when nothing is left.
        """
        named = projections(config)
        stay = {name for pattern in self.keep for name in self._kept(pattern, config)}
        head = self.head or ("int8" if self.to == "int4" else self.to)
        found = {name: _encoding(head if name == "head.weight" else self.to, self.group) for name in named if name not in stay}
        if not found:
            raise ConfigError(f"Of the {len(named)} projections of this model none is left to quantise; keep fewer.")
        return found

    @staticmethod
    def _kept(pattern: str, config: DecoderConfig) -> set[str]:
        try:
            found = {name for name in projections(config) if pattern == kind_of(name, config) or re.search(pattern, name)}
        except re.error as error:
            raise ConfigError(f"'{pattern}' to keep is neither a kind of layer nor a regular expression: {error}.") from None
        if not found:
            kinds, named = sorted({layer.kind for layer in config.layers}), next(iter(projections(config)))
            raise ConfigError(f"Nothing to keep is called '{pattern}'; layers are of kind {', '.join(kinds)}, weights like {named}.")
        return found


def _encoding(format: Format, group: int) -> Encoding:
    return Encoding(Kind[format.upper()], group) if format == "int4" else Encoding(Kind[format.upper()])


def kind_of(name: str, config: DecoderConfig) -> str | None:
    """The kind of the layer that a tensor belongs to."""
    layer = re.match(r"layers\.(\d+)\.", name)
    return config.layers[int(layer[1])].kind if layer else None


class Covered(Config):
    """A row of what a scheme does: tensors of one name in all layers of a kind, their bytes before and after, and what they are after."""

    tensors: str
    stored: str
    count: int
    before: int
    after: int


def coverage(config: DecoderConfig, encodings: Encodings, dtype: Callable[[str], torch.dtype]) -> tuple[Covered, ...]:
    """Every tensor of a model is in one of the rows; `dtype` is what each is stored as before."""
    rows: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for name, (spec, axes) in config.tensors().items():
        shape, before = spec.layout.shape(axes), dtype(name)
        size = math.prod(shape)
        stored, after = str(before).removeprefix("torch."), size * before.itemsize
        if name in encodings:
            stored = str(encodings[name])
            after = sum(part.nbytes for part in encodings[name].stored(math.prod(shape[:-1]), shape[-1]))
        kind = kind_of(name, config)
        called = name if kind is None else f"{kind} {re.sub(r'layers[.][0-9]+[.](mixer[.])?', '', name)}"
        if called == "embedding.weight" and config.tied:
            called = "embedding.weight, which is the head too"
        rows.setdefault((called, stored), []).append((size * before.itemsize, after))
    return tuple(
        Covered(tensors=called, stored=stored, count=len(each), before=sum(row[0] for row in each), after=sum(row[1] for row in each))
        for (called, stored), each in rows.items()
    )
