"""One step: loss and gradients of a batch, or of its micro-batches one after the other; a verdict; what is learned; what is recorded."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import psutil
import torch
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from amaru.data.loader import Batches, TrainingBatch
from amaru.errors import TrainingError
from amaru.models import cost
from amaru.models.decoder import Decoder
from amaru.models.loss import Loss
from amaru.train.balance import Balance
from amaru.train.guard import Verdict
from amaru.train.metrics import StepMetrics
from amaru.train.objective import Objective
from amaru.train.settings import TrainConfig

NAMED_DOCUMENTS = 5  # of a batch, in an error


@dataclass(frozen=True)
class Stepper:
    """`Stepper(model, objective, loader, recipe, optimizer, balance).step(step, before)`."""

    model: Decoder
    objective: Objective
    loader: Batches
    recipe: TrainConfig
    optimizer: Optimizer
    balance: Balance
    matmul_rate: float | None = None

    def step(self, step: int, before: Sequence[StepMetrics]) -> StepMetrics:
        """Train on batch `step`, counted from 0, given the record of all steps before it; raises `TrainingError` where the guard stops."""
        start = time.perf_counter()
        batches = micro_batches(self.loader, step, self.recipe.micro_tokens)
        loss = accumulate(self.model, self.objective, batches)
        value, phase = loss.total.item(), self.loader.phase(step).name
        norm = clip_grad_norm_(self.model.parameters(), self.recipe.clip).item()
        verdict = self.recipe.guard.judge(value, norm, phase, before)
        if verdict and verdict.action == "stop":
            raise TrainingError(_stopped(verdict, step, batches))
        self._learn(step, skip=verdict is not None and verdict.action == "skip")
        seconds = time.perf_counter() - start
        return StepMetrics(
            step=step + 1,
            epoch=batches[0].epoch,
            phase=phase,
            loss=value,
            lr=self.recipe.lr_at(step),
            grad_norm=norm,
            tokens=loss.tokens,
            seconds=seconds,
            tokens_per_second=loss.tokens / seconds,
            mfu=self._utilisation(batches, seconds),
            memory=_memory(self.model.embedding.weight.device),
            event=verdict.event if verdict else "",
            skipped=verdict is not None and verdict.action == "skip",
            documents=_documents(batches) if verdict else (),
            parts=dict(loss.parts),
        )

    def _learn(self, step: int, *, skip: bool) -> None:
        if skip:
            self.balance.forget()
        else:
            for group in self.optimizer.param_groups:
                group["lr"] = self.recipe.lr_at(step)
            self.optimizer.step()
            self.balance.update()
        self.optimizer.zero_grad()

    def _utilisation(self, batches: Sequence[TrainingBatch], seconds: float) -> float | None:
        """FLOPs of forward and backward (three times forward; what is computed again is not counted) as a share of what matmul can do."""
        if self.matmul_rate is None:
            return None
        tokens = sum(len(batch.ids) for batch in batches)
        seen = sum(int(batch.positions.sum()) for batch in batches) // tokens + 1
        return 3 * tokens * cost.forward_flops(self.model.config, seen) / seconds / self.matmul_rate


def micro_batches(loader: Batches, step: int, most_tokens: int | None) -> list[TrainingBatch]:
    """The batch of a step in as few equal parts as have at most so many tokens each, or in single rows."""
    phase = loader.phase(step)
    fits = most_tokens or phase.batch_rows * phase.row_length
    divisors = (parts for parts in range(1, phase.batch_rows + 1) if phase.batch_rows % parts == 0)
    parts = next((n for n in divisors if phase.batch_rows // n * phase.row_length <= fits), phase.batch_rows)
    return [loader.batch(step, part, parts) for part in range(parts)]


def accumulate(model: Decoder, objective: Objective, batches: Sequence[TrainingBatch]) -> Loss:
    """`loss = accumulate(model, CrossEntropy(), micro_batches(loader, step, 4096))`: gradients are added to those that are there.

    Every micro-batch counts by its targets, so loss, parts and gradients are those of all rows in one batch, to rounding; memory
    is that of the largest. The loss comes back without a graph. Raises `TrainingError` when nothing is to be predicted.
    """
    counts = [batch.target_tokens for batch in batches]
    total = sum(counts)
    if total == 0:
        raise TrainingError(f"There is nothing to predict in a batch of {len(batches[0].ids)} tokens: every target is ignored.")
    shares = [count / total for count in counts if count]
    losses = [_learned(model, objective, batch, count / total) for batch, count in zip(batches, counts, strict=True) if count]
    value = sum((share * loss.total for share, loss in zip(shares, losses, strict=True)), start=losses[0].total.new_zeros(()))
    parts = {name: sum(share * loss.parts[name] for share, loss in zip(shares, losses, strict=True)) for name in losses[0].parts}
    return Loss(total=value, tokens=total, parts=parts)


def _learned(model: Decoder, objective: Objective, batch: TrainingBatch, share: float) -> Loss:
    loss = objective(model, batch.to(model.embedding.weight.device))
    (loss.total * share).backward()
    return Loss(total=loss.total.detach(), tokens=loss.tokens, parts=loss.parts)


def _stopped(verdict: Verdict, step: int, batches: Sequence[TrainingBatch]) -> str:
    documents = _documents(batches)
    more = f" and {len(documents) - NAMED_DOCUMENTS} more" * (len(documents) > NAMED_DOCUMENTS)
    sentence = f"At step {step + 1} {verdict.reason}, on documents {', '.join(documents[:NAMED_DOCUMENTS])}{more}. "
    return sentence + (
        "Earlier checkpoints are whole; lower the learning rate or lengthen the warm-up, or leave such batches out by the guard's skip."
    )


def _documents(batches: Sequence[TrainingBatch]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for batch in batches for name in batch.documents))


def _memory(device: torch.device) -> int:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else psutil.Process().memory_info().rss
