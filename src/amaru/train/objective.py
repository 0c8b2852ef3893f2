"""What a training step minimises: a function of model and batch. `distill` brings others of the same shape."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from amaru.data.loader import TrainingBatch
from amaru.data.packing import IGNORED
from amaru.models.decoder import Decoder
from amaru.models.loss import Loss
from amaru.nn.batch import Batch
from amaru.ops.head_loss import TokenCrossEntropy, head_loss


class Objective(Protocol):
    """`objective(model, batch)` gives the loss of one batch, as a mean over its targets (`Counting`: or others), with a gradient."""

    def __call__(self, model: Decoder, batch: TrainingBatch, /) -> Loss: ...


@runtime_checkable
class Counting(Protocol):
    """An objective whose mean is over something else than targets, such as pairs: by that its micro-batches count."""

    def over(self, batch: TrainingBatch) -> int: ...


def counted(objective: Objective, batch: TrainingBatch) -> int:
    """How many things the mean of a batch is over."""
    return objective.over(batch) if isinstance(objective, Counting) else batch.target_tokens


@dataclass(frozen=True)
class CrossEntropy:
    """`CrossEntropy()(model, batch).total`: the mean of -log p(next token), in nats, over the targets of the batch.

    Logits exist for `chunk_tokens` tokens at a time.
    """

    chunk_tokens: int = 1024

    def __call__(self, model: Decoder, batch: TrainingBatch, /) -> Loss:
        hidden = model.hidden_states(Batch(batch.ids, batch.positions, batch.cu_seqlens))
        total = head_loss(hidden, model.head.weight, TokenCrossEntropy(batch.targets, IGNORED), chunk_tokens=self.chunk_tokens)
        return Loss(total=total / batch.target_tokens, tokens=batch.target_tokens)
