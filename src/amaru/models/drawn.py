"""A model that nobody has trained: its weights are drawn when they are read, a block at a time, so that any size can be written."""

from pathlib import Path

import torch
from torch import Tensor

from amaru.models.decoder import Decoder, DecoderConfig


class Drawn:
    """`write(out, config, Drawn(config, seed=0).read, torch.bfloat16)`: a checkpoint of new weights; a source like any other.

    The embedding, the head and each layer are blocks, drawn as `Decoder.initialise` draws them but each from a generator of its own:
    a weight depends on the seed and its block, not on what was read before. The last block that was read is held, in float32.
    """

    def __init__(self, config: DecoderConfig, seed: int, name: str = "drawn") -> None:
        self.config, self.seed, self.path = config, seed, Path(name)
        self._blocks = list(dict.fromkeys(map(_block, self.names)))
        self._held: tuple[str, dict[str, Tensor]] = ("", {})

    @property
    def names(self) -> list[str]:
        return list(self.config.tensors())

    def dtype(self, name: str) -> torch.dtype:
        return torch.float32

    def read(self, name: str) -> Tensor:
        block = _block(name)
        if block != self._held[0]:
            self._held = ("", {})  # freed before the next is drawn
            self._held = (block, self._drawn(block))
        return self._held[1][name]

    def _drawn(self, block: str) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self._blocks.index(block))
        with torch.device("meta"):
            decoder = Decoder(self.config)
        if block == "meta_tokens":
            return {block: torch.empty(self.config.meta_tokens, self.config.hidden).normal_(0, 1, generator=generator)}
        part = decoder.get_submodule(block).to_empty(device="cpu")
        decoder.draw(part, generator)
        return {f"{block}.{name}": weight.detach() for name, weight in part.named_parameters()}


def _block(name: str) -> str:
    """`layers.3`, or the name of what stands outside the layers."""
    first, *rest = name.split(".")
    return f"{first}.{rest[0]}" if first == "layers" else first
