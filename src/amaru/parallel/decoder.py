"""One process's part of a model: a decoder of narrower layers, with a sum over processes where each of them ends.

    mixer.in_proj, q, k, v, up      rows of this process's groups       no word is exchanged before them
    scan, attention, gated norm     this process's groups
    out_proj, o_proj, down          columns of this process's groups    terms of the layer's output: summed behind the mixer
    embedding, head                 tokens of this process              the embedding is summed, logits are joined

Plain tensors and collectives at the mixer's two ends, not DTensor: the kernels between them take pointers, a concatenated
projection is divided part by part, which no placement of DTensor says, and a decode step has no time for its dispatch.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from amaru.errors import ConfigError
from amaru.models.checkpoint import Checkpoint, in_dtype, place
from amaru.models.decoder import Decoder, ResidualLayer
from amaru.nn.linear import Linear
from amaru.parallel.collectives import Group, copied, gathered, joined, scattered, summed
from amaru.parallel.shares import Share, read


class Exchange(Protocol):
    """What happens where the stream enters a divided region and where a term of it leaves one."""

    def begin(self, tokens: int) -> None: ...
    def enter(self, x: Tensor) -> Tensor: ...
    def leave(self, term: Tensor) -> Tensor: ...


class WholeStream:
    """Every process has the stream of all tokens."""

    def __init__(self, group: Group) -> None:
        self.group = group

    def begin(self, tokens: int) -> None: ...

    def enter(self, x: Tensor) -> Tensor:
        return copied(x, self.group)

    def leave(self, term: Tensor) -> Tensor:
        return summed(term, self.group)


class SlicedStream:
    """Every process has the stream of its slice of the tokens, and the norms of it (sequence parallelism)."""

    def __init__(self, group: Group) -> None:
        self.group = group
        self.tokens = 0

    def begin(self, tokens: int) -> None:
        self.tokens = tokens

    def enter(self, x: Tensor) -> Tensor:
        return gathered(x, self.group, self.tokens)

    def leave(self, term: Tensor) -> Tensor:
        return scattered(term, self.group)


def load_part(path: str | Path, dtype: torch.dtype | None = None) -> Decoder:
    """`load_part("nemotron-4-340b")(batch)`: the logits of the whole model, on every process of the default group.

    Each process reads its own rows alone, so its memory is about the weights divided by the processes. Raises `ConfigError` as
    `Share` does.
    """
    source, group = Checkpoint(path), Group.of(dist.group.WORLD)
    share = Share(source.config, group.rank, group.size)
    specs = source.config.tensors()
    return fill(skeleton(share, WholeStream(group)), lambda name: in_dtype(read(source, name, share.kept(name)), specs[name][0], dtype))


def skeleton(share: Share, exchange: WholeStream | SlicedStream) -> Decoder:
    """A process's decoder without values (on the meta device), its processes connected."""
    if share.config.meta_tokens and isinstance(exchange, SlicedStream):
        raise ConfigError("Sequence parallelism has no place for meta tokens in its slices; switch parallel.sequence off.")
    with torch.device("meta"):
        decoder = Decoder(share.layers)
        if share.of == 1:
            return decoder
        decoder.embedding = VocabularyEmbedding(share, exchange)  # type: ignore[assignment]
        decoder.head = VocabularyHead(share, exchange.group)
    if share.config.tied:
        decoder.tie()
    for layer in cast(list[ResidualLayer], decoder.layers):
        layer.norm.register_forward_hook(_after(exchange.enter))
        layer.mixer.register_forward_hook(_after(exchange.leave))
    decoder.norm.register_forward_hook(_after(exchange.enter))
    return decoder


def fill(decoder: Decoder, read: Callable[[str], Tensor]) -> Decoder:
    """Give every parameter its value, one at a time."""
    for name, _ in list(decoder.named_parameters()):
        place(decoder, name, read(name))
    if decoder.config.tied:
        decoder.tie()
    return decoder


class VocabularyEmbedding(nn.Module):
    """The rows of this process's tokens; other tokens are zero here, and the sum over processes has them all."""

    def __init__(self, share: Share, exchange: Exchange) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(share.shape("embedding.weight")))
        self.first, self.exchange = share.vocabulary.start, exchange

    def forward(self, ids: Tensor) -> Tensor:
        rows = ids - self.first
        absent = (rows < 0) | (rows >= len(self.weight))
        self.exchange.begin(len(ids))
        return self.exchange.leave(F.embedding(rows.masked_fill(absent, 0), self.weight).masked_fill(absent[:, None], 0))


class VocabularyHead(Linear):
    """The logits of this process's tokens, joined to those of all."""

    def __init__(self, share: Share, group: Group) -> None:
        super().__init__(len(share.vocabulary), share.config.hidden)
        self.group, self.vocabulary, self.vocab = group, share.vocabulary, share.config.vocab

    def forward(self, x: Tensor) -> Tensor:
        return joined(super().forward(x), self.group, -(-self.vocab // self.group.size), self.vocab)


def _after(exchange: Callable[[Tensor], Tensor]) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    return lambda module, arguments, output: exchange(output)
