"""Steps of one shape are recorded once and then run by one call: decoding pays for no Python between its kernels.

The description of the model stays its modules' `forward`. What a step of few tokens runs there is remembered as a program of
native kernels (ops/native/program.py), for each shape of a batch and each pool; where anything else has a part in it, nothing is
recorded and `forward` serves.
"""

import ctypes
import logging
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from operator import is_
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from amaru.models.decoder import Decoder
from amaru.models.state import DecoderState
from amaru.nn.attention import Attention
from amaru.nn.batch import Batch
from amaru.ops.exactness import is_exact
from amaru.ops.native import Recording, lacks
from amaru.serve.work import Work

MOST_TOKENS = 64  # of a step; more are worth torch's matrix products, which are not recorded
MOST_SHAPES = 64  # that one pool remembers
MOVING = ("ids", "positions", "slots", "ends", "fresh")  # what differs from batch to batch of one shape, besides pages
STANDING = ("lengths", "owners", "singles", "short")  # what does not
KNOWN = {"ids", "positions", "cu_seqlens", "slots", "pages"}

log = logging.getLogger(__name__)


class Passed(NamedTuple):
    """What a pass gives: hidden [T, hidden] and, of a recording whose sequences bring one token each, the head's [T, vocab].

    The latter lie where the next run writes.
    """

    hidden: Tensor
    scores: Tensor | None


class RecordedStep:
    """The layers, the final norm and the head for batches of one shape on one pool; `refusal` says why there is no program."""

    def __init__(self, decoder: Decoder, state: DecoderState, x: Tensor, batch: Batch) -> None:
        """Runs the step while it is recorded: `passed` is its result."""
        self._parts = Parts(decoder)
        self._x, self._batch = x.clone(), _standing(batch, state)
        self._numbers = {name: _numbers(getattr(self._batch, name)) for name in MOVING}
        for layer in decoder.config.layers:
            if isinstance(layer, Attention) and layer.rope:
                self._batch.turns(layer.rope, layer.channels, torch.promote_types(x.dtype, torch.float32))
        with Recording() as recording:
            hidden = decoder.through(self._x, self._batch, state)
            scores = decoder.head(hidden) if self._batch.singles == len(self._batch.lengths) else None
        self.passed = Passed(hidden, scores)
        self.refusal = recording.refusal
        self.program = None if self.refusal else recording.program()

    def serves(self, decoder: Decoder) -> bool:
        return self.program is not None and self._parts.are_those_of(decoder)

    def run(self, decoder: Decoder, state: DecoderState, work: Sequence[Work]) -> bool:
        """`passed` is then of these tokens; False if a kernel refused, which `forward` will say in words.

        Around a step that has read all weights nothing is left in a cache, and each operation of torch takes ten microseconds and more:
        there are few.
        """
        assert self.program is not None and self._batch.pages is not None and self._batch.slots is not None
        self._put(work, decoder.config.meta_tokens)
        if decoder.config.meta_tokens:
            state.begin(torch.tensor([item.slot for item in work if item.start == 0], dtype=torch.int64))
        self._x.copy_(decoder.embed(self._batch.ids))
        for (rope, channels, dtype), standing in self._batch.turned.items():
            for held, turn in zip(standing, rope.turns(self._batch.positions, channels, dtype), strict=True):
                held.copy_(turn)
        for sight, pages in self._batch.pages.items():
            torch.index_select(state.tables[sight], 0, self._batch.slots, out=pages)
        return self.program.run()

    def _put(self, work: Sequence[Work], shift: int) -> None:
        starts = [item.start + shift for item in work]
        ends = [start + len(item.ids) for start, item in zip(starts, work, strict=True)]
        now = {
            "ids": [token for item in work for token in item.ids],
            "positions": [place for start, end in zip(starts, ends, strict=True) for place in range(start, end)],
            "slots": [item.slot for item in work],
            "ends": ends,
            "fresh": [start == 0 for start in starts],
        }
        for name, numbers in self._numbers.items():
            numbers[:] = now[name]


class Parts:
    """Which modules and tensors a decoder consists of: a program points to them, and must not outlive them."""

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


# By shape, the latest last; None: met once.
RECORDED: WeakKeyDictionary[DecoderState, dict[tuple, RecordedStep | None]] = WeakKeyDictionary()


def again(decoder: Decoder, state: DecoderState, work: Sequence[Work]) -> Passed | None:
    """By the recording of an earlier step of this shape; None where there is none that serves."""
    shapes, shape = RECORDED.get(state, {}), _shape(work)
    if shape not in shapes:
        return None
    step = shapes[shape] = shapes.pop(shape)
    if step is None or not step.serves(decoder) or not step.run(decoder, state, work):
        return None
    return step.passed._replace(hidden=step.passed.hidden.clone())


def anew(decoder: Decoder, state: DecoderState, work: Sequence[Work], x: Tensor, batch: Batch) -> Passed:
    """By `decoder.through`, of what `decoder.begin` made of this work; recorded, where that can be."""
    if len(x) > MOST_TOKENS or not x.is_cpu or lacks() or _strange(batch):
        return Passed(decoder.through(x, batch, state), None)
    shapes, shape = RECORDED.setdefault(state, {}), _shape(work)
    if shape not in shapes:
        if len(shapes) >= MOST_SHAPES:
            del shapes[next(iter(shapes))]
        shapes[shape] = None
        if any(len(item.ids) > 1 for item in work):  # guesses make shapes that never come again, and recording is half of such a step
            return Passed(decoder.through(x, batch, state), None)
    elif (step := shapes[shape]) and (step.refusal or step.serves(decoder)):
        return Passed(decoder.through(x, batch, state), None)
    step = shapes[shape] = RecordedStep(decoder, state, x, batch)
    if step.refusal:
        log.info("Steps are not recorded: %s", step.refusal)
    return step.passed._replace(hidden=step.passed.hidden.clone())


def _shape(work: Sequence[Work]) -> tuple:
    return tuple(len(item.ids) for item in work), is_exact(), torch.get_num_threads()


def _numbers(tensor: Tensor) -> ctypes.Array:
    """The memory of a tensor of integers or truths, to be written from a list."""
    kind = ctypes.c_bool if tensor.dtype is torch.bool else ctypes.c_int64
    return (kind * len(tensor)).from_address(tensor.data_ptr())


def _strange(batch: Batch) -> bool:
    """Whether the batch says more than recordings know of."""
    return any(getattr(batch, field.name) is not None for field in fields(batch) if field.name not in KNOWN)


def _standing(batch: Batch, state: DecoderState) -> Batch:
    """A copy of the batch, to which later ones are copied; what is derived from it is found out before anything is recorded."""
    assert batch.slots is not None
    pages = {sight: table[batch.slots] for sight, table in state.tables.items()}
    copy = replace(batch, ids=batch.ids.clone(), positions=batch.positions.clone(), slots=batch.slots.clone(), pages=pages)
    for name in (*MOVING, *STANDING):
        getattr(copy, name)
    return copy


def _tensors(module: nn.Module) -> Iterator[tuple[dict[str, Tensor], str, Tensor]]:
    for part in module.modules():
        for holder in (part._parameters, part._buffers):
            for name, tensor in holder.items():
                if tensor is not None:
                    yield holder, name, tensor  # type: ignore[misc]
