"""A decoder whose weights stay where they are stored: a layer's are in memory only while it runs, and while the one before it does."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amaru.models.checkpoint import in_dtype, place
from amaru.models.decoder import Decoder, ResidualLayer
from amaru.models.source import Source, gathered, pieces
from amaru.ops.linear import linear


def streamed(source: Source, dtype: torch.dtype) -> Decoder:
    """`streamed(Checkpoint("nemotron-h-56b"), torch.float32)(batch)`: logits of a model that does not fit into memory.

    Without gradients. Every call reads all weights once, so a long prompt costs as much as a single token; `in_order` gives layers to
    whoever has many texts for each.
    """
    return Streamed(source, dtype)


class Streamed(Decoder):
    """The weights of `source` in `dtype`, but for what is always in fp32."""

    def __init__(self, source: Source, dtype: torch.dtype) -> None:
        config = source.config
        with torch.device("meta"):
            super().__init__(config)
        self.source, self.dtype = source, dtype
        network = config.network_tensors()
        self.embedding = _Rows(source, dtype)  # type: ignore[assignment]
        self.head = _Head(source, dtype, "embedding.weight" if config.tied else "head.weight")  # type: ignore[assignment]
        for name in network.keys() - {"embedding.weight", "head.weight"}:
            place(self, name, in_dtype(source.read(name), network[name], dtype))

    def in_order(self, indices: Sequence[int] | None = None) -> Iterator[ResidualLayer]:
        """While one layer is used the next is read."""
        wanted = list(range(len(self.layers)) if indices is None else indices)
        with ThreadPoolExecutor(1) as reader:
            coming = [reader.submit(self._read, index) for index in wanted[:1]]
            for index, after in zip(wanted, [*wanted[1:], None], strict=False):
                self._put(coming.pop())
                coming += [reader.submit(self._read, after)] if after is not None else []
                layer = self.layers[index]
                try:
                    yield layer  # type: ignore[misc]
                finally:
                    layer.to("meta")

    @contextmanager
    def hold_head(self) -> Iterator[None]:
        head: _Head = self.head  # type: ignore[assignment]
        try:
            head.held = self.source.read(head.name).to(self.dtype)
            yield
        finally:
            head.held = None

    def _read(self, index: int) -> dict[str, Tensor]:
        named = ((f"layers.{index}.{name}", spec) for name, spec in self.config.layer_tensors(index).items())
        return {name: in_dtype(self.source.read(name), spec, self.dtype) for name, spec in named}

    def _put(self, read: "Future[dict[str, Tensor]]") -> None:
        for name, tensor in read.result().items():
            place(self, name, tensor)


class _Rows(nn.Module):
    """The embedding: only rows that are asked for are read."""

    def __init__(self, source: Source, dtype: torch.dtype) -> None:
        super().__init__()
        self.source, self.dtype = source, dtype

    def forward(self, ids: Tensor) -> Tensor:
        return gathered(self.source, "embedding.weight", ids).to(self.dtype)


class _Head(nn.Module):
    """The head, a piece of the vocabulary at a time, unless it is held."""

    held: Tensor | None = None

    def __init__(self, source: Source, dtype: torch.dtype, name: str) -> None:
        super().__init__()
        self.source, self.dtype, self.name = source, dtype, name

    def forward(self, x: Tensor) -> Tensor:
        if self.held is not None:
            return linear(x, self.held.to(x.dtype))
        vocab, hidden = self.source.config.vocab, self.source.config.hidden
        logits, start = x.new_empty(len(x), vocab), 0
        for rows in pieces(self.source, self.name, (vocab, hidden)):
            logits[:, start : start + len(rows)] = F.linear(x, rows.to(x.dtype))
            start += len(rows)
        return logits
