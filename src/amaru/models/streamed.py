"""A decoder whose weights stay where they are stored: each layer's are in memory only while it runs."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amaru.axes import TensorSpec
from amaru.models.checkpoint import in_dtype, place
from amaru.models.decoder import Decoder
from amaru.models.source import Source, gathered, pieces


def streamed(source: Source, dtype: torch.dtype) -> Decoder:
    """`streamed(Checkpoint("nemotron-h-56b"), torch.float32)(batch)`: logits of a model that does not fit into memory.

    Without gradients. Every call reads all weights once, so a long prompt costs as much as a single token.
    """
    config = source.config
    with torch.device("meta"):
        decoder = Decoder(config)
    network = config.network_tensors()
    decoder.embedding = _Rows(source, dtype)  # type: ignore[assignment]
    decoder.head = _Head(source, dtype, "embedding.weight" if config.tied else "head.weight")  # type: ignore[assignment]
    for name in network.keys() - {"embedding.weight", "head.weight"}:
        place(decoder, name, in_dtype(source.read(name), network[name], dtype))
    for index, layer in enumerate(decoder.layers):
        specs = {f"layers.{index}.{name}": spec for name, spec in config.layer_tensors(index).items()}
        layer.register_forward_pre_hook(_reader(decoder, source, specs, dtype))
        layer.register_forward_hook(_forget)
    return decoder


def _reader(decoder: Decoder, source: Source, specs: dict[str, TensorSpec], dtype: torch.dtype) -> Any:
    def read(*_: Any) -> None:
        for name, spec in specs.items():
            place(decoder, name, in_dtype(source.read(name), spec, dtype))

    return read


def _forget(layer: nn.Module, *_: Any) -> None:
    layer.to("meta")


class _Rows(nn.Module):
    """The embedding: only rows that are asked for are read."""

    def __init__(self, source: Source, dtype: torch.dtype) -> None:
        super().__init__()
        self.source, self.dtype = source, dtype

    def forward(self, ids: Tensor) -> Tensor:
        return gathered(self.source, "embedding.weight", ids).to(self.dtype)


class _Head(nn.Module):
    """The head, a piece of the vocabulary at a time."""

    def __init__(self, source: Source, dtype: torch.dtype, name: str) -> None:
        super().__init__()
        self.source, self.dtype, self.name = source, dtype, name

    def forward(self, x: Tensor) -> Tensor:
        vocab, hidden = self.source.config.vocab, self.source.config.hidden
        logits, start = x.new_empty(len(x), vocab), 0
        for rows in pieces(self.source, self.name, (vocab, hidden)):
            logits[:, start : start + len(rows)] = F.linear(x, rows.to(x.dtype))
            start += len(rows)
        return logits
