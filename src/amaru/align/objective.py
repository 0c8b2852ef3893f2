"""Preference optimisation as an objective of the training loop, and what is watched while it runs."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from amaru.align.losses import Groups, mean_over, preference
from amaru.align.reference import Reference, said
from amaru.align.rows import ComparisonRows
from amaru.align.terms import Terms
from amaru.data.loader import TrainingBatch, in_order
from amaru.models.decoder import Decoder
from amaru.models.loss import Loss

SHOWN = ("accuracy", "margin", "chosen", "rejected", "kl", "longer", "log_p_chosen", "log_p_rejected")


@dataclass(frozen=True)
class Preference:
    """`train(model, Preference(rows, Terms(method="dpo", beta=0.1), Live(reference)), Loader(rows, 16, seed=0), ...)`

    The loss is a mean over comparisons, in the order of `rows`, from which the batches must come. `Loss.parts` are means over comparisons:

    accuracy      share of preferences that the model's implicit rewards beta * h agree with, equal ones counting half (as do comparisons
                  in which nobody prefers anything)
    margin        beta * h of the better answer less that of the worse; `h` is log p(y|x) - log p_ref(y|x)
    chosen        h of the best answer, in nats: below 0 it has become less likely than the reference has it; `rejected` of the worst
    kl            half the mean square of a token's h: what KL(model || reference) is to second order, on the tokens of the answers
    longer        share of preferences in which the model's implicit reward is higher for the longer answer
    log_p_...     of the best and the worst answer, in nats
    """

    rows: ComparisonRows
    terms: Terms
    reference: Reference

    def over(self, batch: TrainingBatch) -> int:
        """What a batch counts by: its comparisons."""
        return len(batch.rows)

    def __call__(self, model: Decoder, batch: TrainingBatch, /) -> Loss:
        log_p, log_ref, lengths = said(model, batch), self.reference.of(model, batch), self._lengths(batch)
        groups = self.rows.groups(batch.rows).like(log_p)
        scale = lengths if self.terms.by_length else 1
        of_model, h = (_placed(_summed(each, lengths) / scale, groups) for each in (log_p, log_p - log_ref))
        losses = preference(self.terms, h, groups) - self.terms.sft * (groups.best * of_model).sum(-1)
        with torch.no_grad():
            parts = watched(self.terms.beta, h, of_model, _placed(lengths, groups), groups)
            kl = _summed((log_p - log_ref).square() / 2, lengths) / lengths
            parts["kl"] = _placed(kl, groups).masked_fill(~groups.real, 0).sum(-1) / groups.real.sum(-1)
        return Loss(losses.mean(), len(log_p), {name: parts[name].mean().item() for name in SHOWN})

    def _lengths(self, batch: TrainingBatch) -> Tensor:
        """int64 [answers of the batch], their tokens."""
        lengths = self.rows.answer_lengths
        found = np.concatenate([lengths[self.rows.borders[row] : self.rows.borders[row + 1]] for row in batch.rows])
        return torch.from_numpy(found).to(batch.ids.device)


def watched(beta: float, h: Tensor, of_model: Tensor, lengths: Tensor, groups: Groups) -> dict[str, Tensor]:
    """By name [C] what `Preference` tells of each comparison, but for `kl`; h, of_model and lengths are [C, K]."""
    gaps, longer = h[:, :, None] - h[:, None, :], (lengths[:, :, None] - lengths[:, None, :]).sign()
    preferred = groups.better.sum((1, 2))
    return {
        "accuracy": torch.where(preferred > 0, mean_over((gaps.sign() + 1) / 2, groups.better), 0.5),
        "margin": beta * mean_over(gaps, groups.better),
        "chosen": (groups.best * h).sum(-1),
        "rejected": (groups.worst * h).sum(-1),
        "longer": torch.where(preferred > 0, mean_over((gaps.sign() * longer + 1) / 2, groups.better), 0.5),
        "log_p_chosen": (groups.best * of_model).sum(-1),
        "log_p_rejected": (groups.worst * of_model).sum(-1),
    }


@torch.no_grad()
def measured(model: Decoder, objective: Preference, batch_rows: int, limit: int | None = None) -> dict[str, float]:
    """`loss` and what `Preference` watches, over the first `limit` comparisons (None: all), without dropout."""
    learning, count = model.training, 0
    sums: dict[str, float] = dict.fromkeys(("loss", *SHOWN), 0.0)
    model.eval()
    for batch in in_order(objective.rows, batch_rows, limit):
        found = objective(model, batch.to(model.embedding.weight.device))
        for name, value in {"loss": found.total.item(), **found.parts}.items():
            sums[name] += value * len(batch.rows)
        count += len(batch.rows)
    model.train(learning)
    return {name: value / count for name, value in sums.items()}


def _summed(of_tokens: Tensor, lengths: Tensor) -> Tensor:
    """[answers]: sums over the tokens of each."""
    owner = torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)
    return of_tokens.new_zeros(len(lengths)).index_add(0, owner, of_tokens)


def _placed(of_answers: Tensor, groups: Groups) -> Tensor:
    """[answers] -> [C, K], 0 where there is none."""
    return of_answers[groups.place].masked_fill(~groups.real, 0)
