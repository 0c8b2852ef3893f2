"""Steps of one shape on a CUDA GPU: captured as a graph when they are first met, and then started by one call.

A decode step of Nemotron-H 8B is some five hundred launches. Python needs 5 to 10 us for each, the GPU 1.5 to 2 inside a graph, beside
3.8 ms in which 16 GB of weights are read at 4.3 TB/s: without a graph the GPU would wait for Python.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from amaru.models.decoder import Decoder
from amaru.models.state import DecoderState
from amaru.nn.batch import Batch
from amaru.nn.moe import MoE
from amaru.serve.standing import MOVING, Parts, Passed, moved, renew, standing
from amaru.serve.work import Work

MOST_SEQUENCES = 256  # of a step that is captured


class CapturedStep:
    """The layers, the final norm and the head for sequences that bring one token each; the interface of `RecordedStep`."""

    refusal: str | None = None

    def __init__(self, decoder: Decoder, state: DecoderState, x: Tensor, batch: Batch) -> None:
        """The step is run once as it stands, which `passed` is the result of and which compiles what it needs; then it is captured."""
        self._parts = Parts(decoder)
        self._moving = torch.empty(len(MOVING), len(batch.ids), dtype=torch.int64, device=x.device)
        self._x, self._batch = x.clone(), self._in_one_piece(standing(batch, decoder, state, x.dtype))
        self.passed = self._through(decoder, state)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._then = self._through(decoder, state)

    def _in_one_piece(self, batch: Batch) -> Batch:
        """What moves lies in rows of one tensor, so that a step copies once; `fresh`, of another dtype, is made of its row."""
        for row, name in zip(self._moving, MOVING, strict=True):
            row.copy_(getattr(batch, name))
            if name != "fresh":
                object.__setattr__(batch, name, row)
        return batch

    def _through(self, decoder: Decoder, state: DecoderState) -> Passed:
        hidden = decoder.through(self._x, self._batch, state)
        return Passed(hidden, decoder.head(hidden))

    def serves(self, decoder: Decoder) -> bool:
        return self._parts.are_those_of(decoder)

    def run(self, decoder: Decoder, state: DecoderState, work: Sequence[Work]) -> bool:
        """`passed` is then of these tokens."""
        now = moved(work, decoder.config.meta_tokens)
        self._moving.copy_(torch.tensor([now[name] for name in MOVING]))
        self._batch.fresh.copy_(self._moving[MOVING.index("fresh")])
        if decoder.config.meta_tokens:
            state.begin(torch.tensor([item.slot for item in work if item.start == 0], dtype=torch.int64, device=self._x.device))
        renew(self._x, self._batch, decoder, state)
        self._graph.replay()
        self.passed = self._then
        return True


def refuses(decoder: Decoder, work: Sequence[Work]) -> str | None:
    """Why steps like this are not captured."""
    if type(decoder) is not Decoder:
        return f"the weights of a {type(decoder).__name__} decoder do not stay where they are"
    if any(len(item.ids) > 1 for item in work):
        return "a sequence brings several tokens, and such shapes seldom come again"
    if len(work) > MOST_SEQUENCES:
        return f"up to {MOST_SEQUENCES} sequences are, and {len(work)} take their time without"
    if any(isinstance(layer, MoE) for layer in decoder.config.layers):
        return "which experts a token goes to is asked on the CPU"
    return None
