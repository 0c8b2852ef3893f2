"""What the reference said of the answers, token by token: a model that runs along, the trained one without its adapter, or what a model
said before (`cached`)."""

from typing import Protocol

import torch
from torch import Tensor

from amaru.adapters import switched_off
from amaru.align.log_probabilities import log_probabilities
from amaru.data.loader import TrainingBatch
from amaru.models.decoder import Decoder
from amaru.nn.batch import Batch


class Reference(Protocol):
    def of(self, model: Decoder, batch: TrainingBatch) -> Tensor:
        """[tokens of answers in the batch], log p in nats, without a gradient."""
        ...


def said(model: Decoder, batch: TrainingBatch) -> Tensor:
    """log p of every token of an answer, given what stands before it, with a gradient."""
    counted = batch.counted
    hidden = model.hidden_states(Batch(batch.ids, batch.positions, batch.cu_seqlens))[counted]
    return log_probabilities(hidden, model.head.weight, batch.targets[counted])


class Live:
    """`Live(decoder)`: a model of its own, in memory beside the trained one."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder.requires_grad_(False)

    @torch.no_grad()
    def of(self, model: Decoder, batch: TrainingBatch) -> Tensor:
        return said(self.decoder, batch.to(self.decoder.embedding.weight.device)).to(batch.ids.device)


class WithoutAdapter:
    """`WithoutAdapter()`: the trained model itself, as it was before its adapter; it costs a pass and no memory."""

    @torch.no_grad()
    def of(self, model: Decoder, batch: TrainingBatch) -> Tensor:
        with switched_off(model):
            return said(model, batch)
