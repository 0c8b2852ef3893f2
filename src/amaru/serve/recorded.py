"""Steps of one shape are recorded once and then run by one call: decoding pays for no Python between its kernels.

The description of the model stays its modules' `forward`. What a step of few tokens runs there is remembered as a program of
native kernels (ops/native/program.py), for each shape of a batch and each pool; where anything else has a part in it, nothing is
recorded and `forward` serves.
"""

import logging
from collections.abc import Iterator
from dataclasses import fields, replace
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from amaru.models.decoder import Decoder
from amaru.models.state import DecoderState
from amaru.nn.attention import Attention
from amaru.nn.batch import Batch
from amaru.ops.exactness import is_exact
from amaru.ops.native import Recording, lacks

MOST_TOKENS = 64  # of a step; more are worth torch's matrix products, which are not recorded
MOST_SHAPES = 64  # that one pool remembers
MOVING = ("positions", "slots", "ends", "fresh")  # what differs from batch to batch of one shape, besides ids and pages
STANDING = ("lengths", "owners", "singles", "short")  # what does not
KNOWN = {"ids", "positions", "cu_seqlens", "slots", "pages"}

log = logging.getLogger(__name__)


class RecordedStep:
    """The layers and the final norm for batches of one shape on one pool; `refusal` says why there is no program."""

    def __init__(self, decoder: Decoder, state: DecoderState, x: Tensor, batch: Batch) -> None:
        """Runs the step while it is recorded: `hidden` is its result."""
        self._parts = Parts(decoder)
        self._x, self._batch = x.clone(), _standing(batch, state)
        for layer in decoder.config.layers:
            if isinstance(layer, Attention) and layer.rope:
                self._batch.turns(layer.rope, layer.channels, torch.promote_types(x.dtype, torch.float32))
        with Recording() as recording:
            self.hidden = decoder.through(self._x, self._batch, state)
        self.refusal = recording.refusal
        self.program = None if self.refusal else recording.program()

    def serves(self, decoder: Decoder) -> bool:
        return self.program is not None and self._parts.are_those_of(decoder)

    def run(self, x: Tensor, batch: Batch) -> Tensor | None:
        """[T, hidden], overwritten by the next run; None if a kernel refused, which `forward` will then say in words."""
        assert self.program is not None and self._batch.pages is not None and batch.pages is not None
        self._x.copy_(x)
        for name in MOVING:
            getattr(self._batch, name).copy_(getattr(batch, name))
        for asked, standing in self._batch.turned.items():
            for mine, theirs in zip(standing, batch.turns(*asked), strict=True):
                mine.copy_(theirs)
        for sight, pages in batch.pages.items():
            self._batch.pages[sight][:, : pages.shape[1]] = pages
        return self.hidden if self.program.run() else None


class Parts:
    """Which modules and tensors a decoder consists of: a program points to them, and must not outlive them."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._modules = [(module._modules, dict(module._modules)) for module in decoder.modules() if module._modules]
        self._tensors = [(holder, name, tensor, tensor.data_ptr()) for holder, name, tensor in _tensors(decoder)]
        self._hooks = [module._forward_hooks for module in decoder.modules()]

    def are_those_of(self, decoder: Decoder) -> bool:
        """Asked in every step, in some 20 microseconds."""
        return (
            decoder is self._decoder
            and all(held == then for held, then in self._modules)
            and all(holder[name] is tensor and tensor.data_ptr() == place for holder, name, tensor, place in self._tensors)
            and not any(self._hooks)
        )


RECORDED: WeakKeyDictionary[DecoderState, dict[tuple, RecordedStep]] = WeakKeyDictionary()


def through(decoder: Decoder, state: DecoderState, x: Tensor, batch: Batch) -> Tensor:
    """What `decoder.through` computes, from a recording where there is one."""
    if len(x) > MOST_TOKENS or not x.is_cpu or lacks() or _strange(batch):
        return decoder.through(x, batch, state)
    shapes = RECORDED.setdefault(state, {})
    shape = (tuple(batch.cu_seqlens.tolist()), is_exact(), torch.get_num_threads())
    step = shapes.get(shape)
    if step is None or not (step.refusal or step.serves(decoder)):
        return _record(shapes, shape, RecordedStep(decoder, state, x, batch))
    hidden = step.run(x, batch) if step.program else None
    return decoder.through(x, batch, state) if hidden is None else hidden.clone()


def _record(shapes: dict[tuple, RecordedStep], shape: tuple, step: RecordedStep) -> Tensor:
    if len(shapes) >= MOST_SHAPES:
        del shapes[next(iter(shapes))]
    shapes[shape] = step
    if step.refusal:
        log.info("Steps are not recorded: %s", step.refusal)
    return step.hidden.clone()


def _strange(batch: Batch) -> bool:
    """Whether the batch says more than recordings know of."""
    return any(getattr(batch, field.name) is not None for field in fields(batch) if field.name not in KNOWN)


def _standing(batch: Batch, state: DecoderState) -> Batch:
    """A copy of the batch, to which later ones are copied; what is derived from it is found out before anything is recorded."""
    assert batch.slots is not None
    pages = {sight: table[batch.slots] for sight, table in state.tables.items()}
    copy = replace(batch, positions=batch.positions.clone(), slots=batch.slots.clone(), pages=pages)
    for name in (*MOVING, *STANDING):
        getattr(copy, name)
    return copy


def _tensors(module: nn.Module) -> Iterator[tuple[dict[str, Tensor], str, Tensor]]:
    for part in module.modules():
        for holder in (part._parameters, part._buffers):
            for name, tensor in holder.items():
                if tensor is not None:
                    yield holder, name, tensor  # type: ignore[misc]
