"""Steps of one shape are recorded once and then run by one call: decoding pays for no Python between its kernels.

The description of the model stays its modules' `forward`. What a step of few tokens runs there is remembered as a program of
native kernels (ops/native/program.py), for each shape of a batch and each pool; where anything else has a part in it, nothing is
recorded and `forward` serves. On a CUDA GPU it is a graph (captured.py).
"""

import ctypes
import logging
from collections.abc import Sequence
from dataclasses import fields
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from amaru.models.decoder import Decoder
from amaru.models.state import DecoderState
from amaru.nn.batch import Batch
from amaru.ops.exactness import is_exact
from amaru.ops.native import Recording, lacks
from amaru.serve import captured
from amaru.serve.captured import CapturedStep
from amaru.serve.standing import MOVING, Parts, Passed, moved, renew, standing
from amaru.serve.work import Work

MOST_TOKENS = 64  # of a step; more are worth torch's matrix products, which are not recorded
MOST_SHAPES = 64  # that one pool remembers
KNOWN = {"ids", "positions", "cu_seqlens", "slots", "pages"}

log = logging.getLogger(__name__)


class RecordedStep:
    """The layers, the final norm and the head for batches of one shape on one pool; `refusal` says why there is no program."""

    def __init__(self, decoder: Decoder, state: DecoderState, x: Tensor, batch: Batch) -> None:
        """Runs the step while it is recorded: `passed` is its result."""
        self._parts = Parts(decoder)
        self._x, self._batch = x.clone(), standing(batch, decoder, state, x.dtype)
        self._numbers = {name: _numbers(getattr(self._batch, name)) for name in MOVING}
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
        assert self.program is not None
        self._put(work, decoder.config.meta_tokens)
        if decoder.config.meta_tokens:
            state.begin(torch.tensor([item.slot for item in work if item.start == 0], dtype=torch.int64))
        renew(self._x, self._batch, decoder, state)
        return self.program.run()

    def _put(self, work: Sequence[Work], shift: int) -> None:
        now = moved(work, shift)
        for name, numbers in self._numbers.items():
            numbers[:] = now[name]


# By shape, the latest last; None: met once.
RECORDED: WeakKeyDictionary[DecoderState, dict[tuple, RecordedStep | CapturedStep | None]] = WeakKeyDictionary()


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
    if _refuses(decoder, work, x) or _strange(batch):
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
    step = shapes[shape] = (RecordedStep if x.is_cpu else CapturedStep)(decoder, state, x, batch)
    if step.refusal:
        log.info("Steps are not recorded: %s", step.refusal)
    return step.passed._replace(hidden=step.passed.hidden.clone())


def _refuses(decoder: Decoder, work: Sequence[Work], x: Tensor) -> bool:
    if x.is_cuda:
        return captured.refuses(decoder, work) is not None
    return len(x) > MOST_TOKENS or not x.is_cpu or lacks() is not None


def _shape(work: Sequence[Work]) -> tuple:
    return tuple(len(item.ids) for item in work), is_exact(), torch.get_num_threads()


def _numbers(tensor: Tensor) -> ctypes.Array:
    """The memory of a tensor of integers or truths, to be written from a list."""
    kind = ctypes.c_bool if tensor.dtype is torch.bool else ctypes.c_int64
    return (kind * len(tensor)).from_address(tensor.data_ptr())


def _strange(batch: Batch) -> bool:
    """Whether the batch says more than recordings know of."""
    return any(getattr(batch, field.name) is not None for field in fields(batch) if field.name not in KNOWN)
