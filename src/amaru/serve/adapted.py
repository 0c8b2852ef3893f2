"""A pass in which each sequence has its own adapter: one batch for all, and the low-rank terms added to the rows of whom they concern.

Where none is asked for nothing is different. A pass with adapters is not recorded: its rows change from step to step.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from amaru.adapters import by_sequence
from amaru.models.decoder import Decoder
from amaru.models.state import DecoderState
from amaru.serve.forward import Work, hidden_and_logits
from amaru.serve.work import batch_of


def names_of(decoder: Decoder) -> tuple[str, ...]:
    """The adapters that a decoder has."""
    return tuple(getattr(decoder, "adapters", ()))


class Passes:
    """`passes = Passes(decoder, state)`; `passes.run(work, read, adapters)`, with the name of each sequence's adapter or None."""

    def __init__(self, decoder: Decoder, state: DecoderState) -> None:
        self._decoder, self._state = decoder, state
        self._beginnings: dict[str, DecoderState] = {}

    @torch.inference_mode()
    def run(self, work: list[Work], read: Sequence[int], adapters: Sequence[str | None]) -> tuple[Tensor, Tensor]:
        """hidden [T, hidden] of everyone's tokens, and logits [R, vocab] after the last of each, so many as `read` says."""
        decoder, state = self._decoder, self._state
        if not any(adapters):
            return hidden_and_logits(decoder, state, work, read)
        x, batch, _ = decoder.begin(batch_of(work).to(decoder.embedding.weight.device), state)
        self._begin(work, adapters)
        lengths = [len(item.ids) for item in work]
        with by_sequence(decoder, adapters, lengths, read):
            hidden = decoder.through(x, batch, state)
            last = [rows[-count:] for rows, count in zip(hidden.split(lengths), read, strict=True)]
            return hidden, decoder.logits(torch.cat(last))

    @torch.inference_mode()
    def logits(self, hidden: Tensor, adapter: str | None) -> Tensor:
        """hidden [n, hidden] of one sequence -> [n, vocab]; an adapter may reach the head too."""
        if adapter is None:
            return self._decoder.logits(hidden)
        with by_sequence(self._decoder, [adapter], [len(hidden)]):
            return self._decoder.logits(hidden)

    def _begin(self, work: Sequence[Work], adapters: Sequence[str | None]) -> None:
        """Whoever begins with an adapter begins with what the meta tokens leave with it."""
        if not (count := self._decoder.config.meta_tokens):
            return
        for item, name in zip(work, adapters, strict=True):
            if item.start or name is None:
                continue
            if name not in self._beginnings:
                with by_sequence(self._decoder, [name], [count]):
                    self._beginnings[name] = self._decoder.new_state(1, 1)
            start = replace(self._state, meta=self._beginnings[name].meta)
            start.begin(torch.tensor([item.slot], device=self._decoder.embedding.weight.device))
