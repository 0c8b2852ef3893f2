"""Distillation as an objective of the training loop: the student learns the teacher's whole next-token distribution, and more if told."""

import torch
import torch.nn.functional as F
from torch import Tensor

from amaru.data.loader import TrainingBatch
from amaru.distill.hidden import distance, states
from amaru.distill.losses import divergence
from amaru.distill.teacher import LiveTeacher, Said, Teacher, chunk_of
from amaru.distill.terms import Terms
from amaru.errors import ConfigError
from amaru.models.decoder import Decoder
from amaru.models.loss import Loss
from amaru.nn.batch import Batch
from amaru.ops.head_loss import head_loss


class Distillation:
    """`train(student, Distillation(teacher), ...)`: the loss of `Terms`, a mean over the tokens that have a target.

    teacher   a decoder, which then runs along, or any `Teacher`; its temperature is that of the terms
    pairs     the layers that `terms.hidden` compares (`Matching.paired`)

    Logits of both exist for `chunk_tokens` tokens at a time (None: `chunk_of` the vocabulary). `Loss.parts` has every term before its
    weight, by name, where there is more than one. A dynamic balance is that of the tokens that are seen together, so with it accumulated
    batches differ a little from whole ones. Raises `ConfigError` when student and teacher differ in vocabulary or temperature.
    """

    def __init__(
        self,
        teacher: Decoder | Teacher,
        terms: Terms | None = None,
        *,
        pairs: tuple[tuple[int, int], ...] = (),
        chunk_tokens: int | None = None,
    ) -> None:
        self.terms = terms or Terms()
        self.teacher = LiveTeacher(teacher, self.terms.temperature) if isinstance(teacher, Decoder) else teacher
        self.pairs = pairs
        self.chunk_tokens = chunk_tokens
        if self.teacher.temperature != self.terms.temperature:
            raise ConfigError(f"The teacher speaks at T = {self.teacher.temperature}, and T = {self.terms.temperature} is asked for.")
        if (self.terms.hidden is None) != (not pairs):
            raise ConfigError("Hidden states are compared by terms.hidden and its pairs of layers, which belong together.")

    def __call__(self, student: Decoder, batch: TrainingBatch) -> Loss:
        said = self.teacher.of(batch, [theirs for _, theirs in self.pairs])
        inputs, counted = Batch(batch.ids, batch.positions, batch.cu_seqlens), batch.counted
        last, mine = states(student, inputs, [layer for layer, _ in self.pairs])
        if not counted.all():
            last, mine = last[counted], {layer: state[counted] for layer, state in mine.items()}
        total, parts = self._of_logits(student, last, batch.targets[counted], said)
        if self.terms.hidden is not None:
            apart = distance(self.terms.hidden, self.pairs, student, mine, said.hidden)
            total = total + self.terms.hidden.weight * self._alpha(parts[self.terms.divergence], apart) * apart
            parts[self.terms.hidden.by] = apart.item()
        return Loss(total=total, tokens=len(last), parts=parts if len(parts) > 1 else {})

    def _of_logits(self, student: Decoder, last: Tensor, targets: Tensor, said: Said) -> tuple[Tensor, dict[str, float]]:
        """The terms that read logits, chunk by chunk, and each alone: means over tokens."""
        terms, sums = self.terms, {self.terms.divergence: 0.0} | ({"cross_entropy": 0.0} if self.terms.cross_entropy else {})

        def token_loss(logits: Tensor, rows: slice) -> Tensor:
            loss = divergence(terms.divergence, *said.beside(logits, rows), terms.beta) * terms.temperature**2
            sums[terms.divergence] += loss.item()
            if terms.cross_entropy:
                text = F.cross_entropy(logits, targets[rows], reduction="sum")
                sums["cross_entropy"] += text.item()
                loss = loss + terms.cross_entropy * text
            return loss

        chunk_tokens = self.chunk_tokens or chunk_of(student.config.vocab)
        total = head_loss(last, student.head.used(), token_loss, chunk_tokens=chunk_tokens)
        return total / len(last), {name: value / len(last) for name, value in sums.items()}

    def _alpha(self, of_logits: float, apart: Tensor) -> Tensor | float:
        """Minitron's balance: the ratio of the losses, through which no gradient flows."""
        assert self.terms.hidden is not None
        if self.terms.hidden.balance == "fixed":
            return 1.0
        return of_logits / apart.detach().clamp_min(torch.finfo(apart.dtype).tiny)
