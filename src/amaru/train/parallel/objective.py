"""Cross-entropy where every process has the logits of its part of the vocabulary only."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from amaru.data.loader import TrainingBatch
from amaru.data.packing import IGNORED
from amaru.models.decoder import Decoder
from amaru.models.loss import Loss
from amaru.nn.batch import Batch
from amaru.ops.head_loss import TokenCrossEntropy, head_loss
from amaru.parallel.collectives import Group, sum_in_place


@dataclass(frozen=True)
class DividedCrossEntropy:
    """`DividedCrossEntropy(group, first=0)(model, batch)`: what `CrossEntropy` is in one process; the same bits in each of the group.

    first    the token whose logit is row 0 of this process's head
    A batch without targets has loss 0, since its process must go along with the others.
    """

    group: Group
    first: int
    chunk_tokens: int = 1024

    def __call__(self, model: Decoder, batch: TrainingBatch, /) -> Loss:
        def divided(logits: Tensor, rows: slice) -> Tensor:
            return _DividedCrossEntropy.apply(logits, batch.targets[rows], self.first, self.group)  # type: ignore[no-any-return]

        hidden = model.hidden_states(Batch(batch.ids, batch.positions, batch.cu_seqlens))
        token_loss = divided if self.group.size > 1 else TokenCrossEntropy(batch.targets, IGNORED)
        total = head_loss(hidden, model.head.weight, token_loss, chunk_tokens=self.chunk_tokens)
        return Loss(total=total / max(1, batch.target_tokens), tokens=batch.target_tokens)


class _DividedCrossEntropy(torch.autograd.Function):
    """logits [n, this process's tokens], targets [n] -> the sum of log(sum exp) - logit of the target, over everyone's tokens."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, first: int, group: Group) -> Tensor:
        largest = logits.max(-1).values
        dist.all_reduce(largest, dist.ReduceOp.MAX, group=group.processes)
        exp = logits - largest[:, None]
        rows = targets - first
        here = (rows >= 0) & (rows < logits.shape[-1])  # an ignored target is nowhere
        rows = rows.masked_fill(~here, 0)
        reached = exp.gather(-1, rows[:, None])[:, 0].masked_fill(~here, 0)
        said = torch.stack([exp.exp_().sum(-1), reached])
        total, target = sum_in_place(said, group)
        counted = targets != IGNORED
        ctx.save_for_backward(exp.div_(total[:, None]), rows, here, counted)
        return (total.log() - target).masked_fill(~counted, 0).sum()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        share, rows, here, counted = ctx.saved_tensors
        share[torch.arange(len(rows), device=rows.device), rows] -= here.to(share.dtype)
        return share.mul_(grad * counted[:, None]), None, None, None
