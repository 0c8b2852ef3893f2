"""What a step that is run again stands on: the modules and tensors that it points to, and a batch that later ones are copied to."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from operator import is_
from typing import NamedTuple

import torch
from torch import Tensor, nn

from amaru.models.decoder import Decoder
from amaru.models.state import DecoderState
from amaru.nn.batch import Batch
from amaru.serve.work import Work

MOVING = ("ids", "positions", "slots", "ends", "fresh")  # what differs from batch to batch of one shape, besides pages
STANDING = ("lengths", "owners", "singles", "short")  # what does not


class Passed(NamedTuple):
    """What a pass gives: hidden [T, hidden] and, of a step that is run again and whose sequences bring one token each, the head's
    [T, vocab]. The latter lie where the next run writes.
    """

    hidden: Tensor
    scores: Tensor | None


class Parts:
    """Which modules and tensors a decoder consists of: what is run again points to them, and must not outlive them."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._modules = [module._modules for module in decoder.modules() if module._modules]
        self._children = [dict(modules) for modules in self._modules]
        self._holders, self._names, self._tensors = zip(*_tensors(decoder), strict=True)
        self._places = [tensor.data_ptr() for tensor in self._tensors]
        self._hooks = [module._forward_hooks for module in decoder.modules()]

    def are_those_of(self, decoder: Decoder) -> bool:
        """Asked in every step, so all loops are Python's own: nothing of this lies in a cache by then."""
        return (
            decoder is self._decoder
            and self._modules == self._children
            and all(map(is_, map(dict.get, self._holders, self._names), self._tensors))
            and [*map(Tensor.data_ptr, self._tensors)] == self._places
            and not any(self._hooks)
        )


def standing(batch: Batch, decoder: Decoder, state: DecoderState, dtype: torch.dtype) -> Batch:
    """A copy of the batch, to which later ones are copied; what is derived from it is found out before anything is recorded."""
    assert batch.slots is not None
    pages = {sight: table[batch.slots] for sight, table in state.tables.items()}
    copy = replace(batch, ids=batch.ids.clone(), positions=batch.positions.clone(), slots=batch.slots.clone(), pages=pages)
    for name in (*MOVING, *STANDING):
        getattr(copy, name)
    for layer in decoder.config.layers:
        if layer.turned:
            copy.turns(*layer.turned, torch.promote_types(dtype, torch.float32))
    return copy


def renew(x: Tensor, batch: Batch, decoder: Decoder, state: DecoderState) -> None:
    """What follows from the tokens, positions and slots that a standing batch has been given: embeddings, rotations and pages."""
    assert batch.pages is not None and batch.slots is not None
    x.copy_(decoder.embed(batch.ids))
    for (rope, channels, dtype), turns in batch.turned.items():
        for held, turn in zip(turns, rope.turns(batch.positions, channels, dtype), strict=True):
            held.copy_(turn)
    for sight, pages in batch.pages.items():
        torch.index_select(state.tables[sight], 0, batch.slots, out=pages)


def moved(work: Sequence[Work], shift: int) -> dict[str, list[int]]:
    """What each name of `MOVING` is in this step; `shift` places were computed before any sequence."""
    starts = [item.start + shift for item in work]
    ends = [start + len(item.ids) for start, item in zip(starts, work, strict=True)]
    return {
        "ids": [token for item in work for token in item.ids],
        "positions": [place for start, end in zip(starts, ends, strict=True) for place in range(start, end)],
        "slots": [item.slot for item in work],
        "ends": ends,
        "fresh": [start == 0 for start in starts],
    }


def _tensors(module: nn.Module) -> Iterator[tuple[dict[str, Tensor], str, Tensor]]:
    for part in module.modules():
        for holder in (part._parameters, part._buffers):
            for name, tensor in holder.items():
                if tensor is not None:
                    yield holder, name, tensor  # type: ignore[misc]
