"""Distillation as an objective of the training loop: the student learns the teacher's whole next-token distribution."""

import torch
from torch import Tensor

from amaru.data.loader import TrainingBatch
from amaru.distill.losses import forward_kl
from amaru.errors import ConfigError
from amaru.models.decoder import Decoder
from amaru.models.loss import Loss
from amaru.nn.batch import Batch
from amaru.ops.head_loss import head_loss


class Distillation:
    """`train(student, Distillation(teacher), ...)`: mean forward KL over the tokens that have a target; no cross-entropy.

    The live teacher runs on each batch without gradients, in its own compute dtype. Logits of both exist
    for `chunk_tokens` tokens at a time. Raises `ConfigError` when student and teacher differ in vocabulary.
    """

    def __init__(self, teacher: Decoder, *, temperature: float = 1.0, chunk_tokens: int = 1024) -> None:
        self.teacher = teacher.requires_grad_(False)
        self.temperature = temperature
        self.chunk_tokens = chunk_tokens

    def __call__(self, student: Decoder, batch: TrainingBatch) -> Loss:
        if student.config.vocab != self.teacher.config.vocab:
            raise ConfigError(
                f"The teacher has {self.teacher.config.vocab} tokens and the student {student.config.vocab}; "
                "distillation needs one vocabulary."
            )
        inputs = Batch(batch.ids, batch.positions, batch.cu_seqlens)
        with torch.no_grad():
            taught = self.teacher.hidden_states(inputs)
        hidden = student.hidden_states(inputs)
        learns = batch.targets >= 0
        if not learns.all():
            hidden, taught = hidden[learns], taught[learns]

        def token_loss(logits: Tensor, rows: slice) -> Tensor:
            return forward_kl(logits, self.teacher.logits(taught[rows]), self.temperature)

        total = head_loss(hidden, student.head.weight, token_loss, chunk_tokens=self.chunk_tokens)
        tokens = len(hidden)
        return Loss(total=total / tokens, tokens=tokens, parts={})
