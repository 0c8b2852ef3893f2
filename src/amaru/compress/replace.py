"""What a block costs in quality: the parent with that one block in place of its layer (Puzzle, replace-one-block scores)."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from amaru.compress.blocks import Block
from amaru.compress.local import Streams
from amaru.compress.store import CandidateStore
from amaru.data.packing import IGNORED
from amaru.errors import CheckpointError, DataError
from amaru.models.decoder import Decoder, ResidualLayer
from amaru.nn.attention import KV
from amaru.nn.batch import Batch

CHUNK_TOKENS = 1024
Build = Callable[[Block], ResidualLayer | None]
Progress = Callable[[str], None]


class Sample(NamedTuple):
    """One row of validation text: `targets` [T], `IGNORED` where there is none."""

    batch: Batch
    targets: Tensor


def known_costs(library: Sequence[Sequence[Block]], store: CandidateStore) -> dict[str, dict[str, float]] | None:
    """What `replace_one` found before, if that is all of it."""
    found = {block.key: store.get(block.key, "replace") for blocks in library for block in blocks}
    return None if None in found.values() else found  # type: ignore[return-value]


@torch.no_grad()
def replace_one(
    parent: Decoder,
    library: Sequence[Sequence[Block]],
    build: Build,
    samples: Sequence[Sample],
    store: CandidateStore,
    progress: Progress = lambda text: None,
) -> dict[str, dict[str, float]]:
    """By the key of every block: `kl`, KL(parent || with the block) in nats per token, and `loss`, the change of the loss.

    The layers of the library, in order, are the stack (after depth pruning fewer than the parent's); the parent is whole. A block that
    is the stack's own layer costs what the stack alone does. What the store knows is not computed again.
    """
    stack = [blocks[0].index for blocks in library]
    truth = _Truth(parent, samples)
    streams = Streams(parent, [sample.batch for sample in samples])
    alone = truth.of(parent, streams, stack)
    found: dict[str, dict[str, float]] = {}
    for place, blocks in enumerate(library):
        for block in blocks:
            own = block.layer == parent.config.layers[block.index]
            known = alone if own else store.get(block.key, "replace")
            found[block.key] = known or truth.with_block(parent, streams, build(block), stack[place + 1 :], block)
            store.put(block.key, "replace", found[block.key])
            progress(f"replaced {place + 1}/{len(library)}: {block.describe()}, KL {found[block.key]['kl']:.4f}")
        streams.advance(parent.layers[stack[place]])
    return found


class _Truth:
    """What the whole parent says on the samples, to which stacks with a block are held."""

    def __init__(self, parent: Decoder, samples: Sequence[Sample]) -> None:
        self.hidden = [parent.hidden_states(sample.batch) for sample in samples]
        self.targets = [sample.targets for sample in samples]
        self.tokens = sum(int((targets != IGNORED).sum()) for targets in self.targets)
        if not self.tokens:
            raise DataError("Blocks are scored on validation text with targets; there was none.")
        pieces = [piece for pair in zip(self.hidden, self.targets, strict=True) for piece in _chunks(*pair)]
        self.loss = sum(_nats(parent.logits(hidden), targets) for hidden, targets in pieces) / self.tokens

    def of(self, parent: Decoder, streams: Streams, rest: Sequence[int]) -> dict[str, float]:
        """A stack whose remaining layers are `rest`, from the streams before them."""
        return self._judged(parent, [self._end(parent, at, number, streams, rest) for number, at in enumerate(streams.at)])

    def with_block(
        self, parent: Decoder, streams: Streams, layer: ResidualLayer | None, rest: Sequence[int], block: Block
    ) -> dict[str, float]:
        ends = []
        for number, (x, kv) in enumerate(streams.at):
            at = (x, kv) if layer is None else layer(x, streams.batches[number], None, kv)
            ends.append(self._end(parent, at, number, streams, rest))
        found = self._judged(parent, ends)
        if not all(value == value and abs(value) < float("inf") for value in found.values()):
            raise CheckpointError(f"With {block.describe()} in place the output is not finite; compute in fp32 or bf16.")
        return found

    def _end(self, parent: Decoder, at: tuple[Tensor, KV | None], number: int, streams: Streams, rest: Sequence[int]) -> Tensor:
        x, kv = at
        for index in rest:
            x, kv = parent.layers[index](x, streams.batches[number], None, kv)
        return parent.end(x, streams.real[number])

    def _judged(self, parent: Decoder, ends: list[Tensor]) -> dict[str, float]:
        kl = loss = 0.0
        for end, whole, targets in zip(ends, self.hidden, self.targets, strict=True):
            for (found, wanted), (taught, _) in zip(_chunks(end, targets), _chunks(whole, targets), strict=True):
                logits, theirs = (parent.logits(hidden) for hidden in (found, taught))
                log_q, log_p = (torch.log_softmax(each, dim=-1) for each in (logits, theirs))
                kl += float((log_p.exp() * (log_p - log_q)).sum(-1)[wanted != IGNORED].sum())
                loss += _nats(logits, wanted)
        return {"kl": kl / self.tokens, "loss": loss / self.tokens - self.loss}


def _chunks(hidden: Tensor, targets: Tensor) -> list[tuple[Tensor, Tensor]]:
    return list(zip(hidden.split(CHUNK_TOKENS), targets.split(CHUNK_TOKENS), strict=True))


def _nats(logits: Tensor, targets: Tensor) -> float:
    return float(F.cross_entropy(logits, targets, reduction="sum", ignore_index=IGNORED))
