"""The blocks that may stand in each place of a stack: narrower forms of its layer, itself, or none."""

import itertools
from collections.abc import Sequence
from dataclasses import replace

import torch
from pydantic import Field

from amaru.compress.candidate import Candidate
from amaru.compress.ranking import Ranking, cut_for
from amaru.compress.scores import Scores
from amaru.compress.surgery import Surgery
from amaru.config import Config, fingerprint_bytes, to_dict
from amaru.errors import ConfigError
from amaru.models.checkpoint import place
from amaru.models.decoder import AnyLayer, Decoder, DecoderConfig, ResidualLayer
from amaru.nn.layer import LayerConfig

SHARES: dict[str, tuple[float, ...]] = {
    "head": (1.0, 0.75, 0.5),
    "channel": (1.0, 0.5),
    "state": (1.0, 0.5),
    "kv_group": (1.0, 0.5),
    "ffn": (1.0, 0.75, 0.5, 0.25, 0.1),
}
MULTIPLES = {"channel": 8, "state": 8, "ffn": 16}


class Variants(Config):
    """`Variants(shares={"ffn": (1.0, 0.5)}, no_op=True)`: which blocks each layer of the parent offers.

    shares   of each axis, as shares of the parent's width; kept to multiples of 16 (ffn) or 8 (channels, states), of heads and groups
             to whole ones. Axes not named stay whole
    joint    every width with every other inside a layer; else one axis at a time
    no_op    a layer may also go
    fixed    layers by their index that stay as they are
    """

    shares: dict[str, tuple[float, ...]] = Field(default_factory=SHARES.copy)
    joint: bool = False
    no_op: bool = True
    fixed: tuple[int, ...] = ()

    def check(self) -> None:
        for name, share in ((name, share) for name, shares in self.shares.items() for share in shares):
            if not 0 < share <= 1:
                raise ConfigError(f"Variants takes shares above 0 and up to 1; got {share:g} for {name}.")


class Block(Config):
    """`Block(index=3, layer=MLP(ffn=512))`: what stands where layer `index` of the parent stood; no `layer`: nothing."""

    index: int
    layer: AnyLayer | None

    @property
    def key(self) -> str:
        return fingerprint_bytes(repr(to_dict(self)))

    def describe(self) -> str:
        return f"layer {self.index}: {self.layer.describe() if self.layer else 'no layer'}"


def library(config: DecoderConfig, variants: Variants, layers: Sequence[int] | None = None) -> list[list[Block]]:
    """For each of these layers (all, if not said) its blocks: the parent's own first, then narrower ones, then none.

    Layers that share keys and values stay as they are: a cut of one would be a cut of all.
    """
    bound = {*variants.fixed, *config.kv_sources(), *(source for source in config.kv_sources().values() if source is not None)}
    found = []
    for index in range(len(config.layers)) if layers is None else layers:
        layer = config.layers[index]
        if index in bound:
            found.append([Block(index=index, layer=layer)])
        else:
            none = [Block(index=index, layer=None)] if variants.no_op else []
            found.append([*(Block(index=index, layer=each) for each in _narrower(layer, variants)), *none])  # type: ignore[arg-type]
    return found


def cut_block(parent: Decoder, block: Block, scores: Scores, ranking: Ranking | None = None) -> ResidualLayer | None:
    """The block with the parent's most important heads, channels, neurons: new weights in the parent's dtype; None for no layer."""
    if block.layer is None:
        return None
    alone = replace(parent.config, layers=(block.layer,))  # type: ignore[arg-type]
    cut = cut_for(Candidate(layers=(block.index,), config=alone, parameters=0, memory=0), parent.config, scores, ranking)
    weights = dict(parent.named_parameters())
    read = Surgery(parent.config, cut).reader(lambda name: weights[name].detach())
    with torch.device("meta"):
        decoder = Decoder(alone)
    for name in alone.layer_tensors(0):
        place(decoder, f"layers.0.{name}", read(f"layers.0.{name}").clone())
    return decoder.layers[0]  # type: ignore[return-value]


def _narrower(layer: LayerConfig, variants: Variants) -> list[LayerConfig]:
    """The layer and its narrower forms, widest first, each once."""
    sizes = {name: axis.size for name, axis in layer.axes().items()}
    offered = {name: _widths(name, sizes[name], variants.shares.get(name, ())) for name in layer.probes}
    if variants.joint:
        chosen = [dict(zip(offered, widths, strict=True)) for widths in itertools.product(*offered.values())]
    else:
        chosen = [{}, *({name: width} for name, widths in offered.items() for width in widths[1:])]
    return list(dict.fromkeys(layer.resized(sizes | each) for each in chosen))


def _widths(name: str, size: int, shares: tuple[float, ...]) -> list[int]:
    multiple = MULTIPLES.get(name, 1)
    widths = {max(multiple, round(share * size / multiple) * multiple) for share in shares}
    return [size, *sorted((width for width in widths if width < size), reverse=True)]
