"""One step: loss and gradients of a batch, or of its micro-batches one after the other; a verdict; what is learned; what is recorded."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import psutil
import torch

from amaru.data.loader import Batches, TrainingBatch
from amaru.errors import TrainingError
from amaru.models import cost
from amaru.models.decoder import Decoder
from amaru.models.loss import Loss
from amaru.train.balance import Balance
from amaru.train.guard import Verdict
from amaru.train.metrics import Past, StepMetrics
from amaru.train.objective import Objective, counted
from amaru.train.optim import AdamW
from amaru.train.placement import ALONE, Placement
from amaru.train.settings import TrainConfig

NAMED_DOCUMENTS = 5  # of a batch, in an error


@dataclass(frozen=True)
class Stepper:
    """`Stepper(model, objective, loader, recipe, optimizer, balance).step(step, past)`."""

    model: Decoder
    objective: Objective
    loader: Batches
    recipe: TrainConfig
    optimizer: AdamW
    balance: Balance
    matmul_rate: float | None = None
    placement: Placement = ALONE

    def step(self, step: int, past: Past) -> StepMetrics:
        """Train on batch `step`, counted from 0, given what was before it; raises `TrainingError` where the guard stops."""
        start = time.perf_counter()
        batches = micro_batches(self.loader, step, self.recipe.micro_tokens, self.placement)
        loss = accumulate(self.model, self.objective, batches, self.placement)
        value, phase = loss.total.item(), self.loader.phase(step).name
        norm = self.placement.clip(self.model, self.recipe.clip)
        verdict = self.recipe.guard.judge(value, norm, phase, past)
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
        """FLOPs of forward and backward as a share of what matmul can do."""
        if self.matmul_rate is None:
            return None
        tokens = sum(len(batch.ids) for batch in batches)
        seen = sum(int(batch.positions.sum()) for batch in batches) // tokens + 1
        return tokens * cost.training_flops(self.model.config, seen) / seconds / self.matmul_rate


def micro_batches(loader: Batches, step: int, most_tokens: int | None, placement: Placement = ALONE) -> list[TrainingBatch]:
    """This process's share of a step's batch, in as few equal parts as have at most so many tokens each, or in single rows."""
    phase = loader.phase(step)
    rows = phase.batch_rows // placement.shares
    parts = passes(rows, phase.row_length, most_tokens)
    first = placement.share * parts
    return [loader.batch(step, first + part, parts * placement.shares) for part in range(parts)]


def passes(rows: int, row_length: int, most_tokens: int | None) -> int:
    """`passes(6, 512, 1200) == 3`: the fewest equal parts of so many rows that have at most so many tokens each, or single rows."""
    divisors = (parts for parts in range(1, rows + 1) if rows % parts == 0)
    return next((parts for parts in divisors if rows // parts * row_length <= (most_tokens or rows * row_length)), rows)


def accumulate(model: Decoder, objective: Objective, batches: Sequence[TrainingBatch], placement: Placement = ALONE) -> Loss:
    """`loss = accumulate(model, CrossEntropy(), micro_batches(loader, step, 4096))`: gradients are added to those that are there.

    Every micro-batch counts by its targets, or what else the mean is over, those of all processes, so loss, parts and gradients are
    those of all rows in one batch, to rounding; memory is that of the largest. The loss comes back without a graph. Raises
    `TrainingError` when nothing is to be predicted.
    """
    counts = [counted(objective, batch) for batch in batches]
    total, tokens = map(round, placement.total([sum(counts), sum(batch.target_tokens for batch in batches)]))
    if total == 0:
        raise TrainingError(f"There is nothing to predict in a batch of {len(batches[0].ids)} tokens: every target is ignored.")
    asked = [(batch, count / total) for batch, count in zip(batches, counts, strict=True) if count or placement.shares > 1]
    losses = [(share, _learned(model, objective, batch, share)) for batch, share in asked]
    value = sum((share * loss.total for share, loss in losses), start=losses[0][1].total.new_zeros(()))
    parts = {name: sum(share * loss.parts[name] for share, loss in losses) for name in losses[0][1].parts}
    summed, *means = placement.total([value.item(), *parts.values()])
    return Loss(total=torch.full_like(value, summed), tokens=tokens, parts=dict(zip(parts, means, strict=True)))


def _learned(model: Decoder, objective: Objective, batch: TrainingBatch, share: float) -> Loss:
    loss = objective(model, batch.to(model.embedding.weight.device))
    (loss.total * share).backward()
    return Loss(total=loss.total.detach(), tokens=loss.tokens, parts=loss.parts)


def _stopped(verdict: Verdict, step: int, batches: Sequence[TrainingBatch]) -> str:
    return (
        f"At step {step + 1} {verdict.reason}, on documents {named(_documents(batches))}. Earlier checkpoints are whole: "
        "lower the learning rate or lengthen the warm-up, or go on without such batches by the guard's skip."
    )


def named(documents: Sequence[str]) -> str:
    """The first few of them, and how many more there are."""
    more = f" and {len(documents) - NAMED_DOCUMENTS} more" * (len(documents) > NAMED_DOCUMENTS)
    return f"{', '.join(documents[:NAMED_DOCUMENTS])}{more}"


def _documents(batches: Sequence[TrainingBatch]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for batch in batches for name in batch.documents))


def _memory(device: torch.device) -> int:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else psutil.Process().memory_info().rss
