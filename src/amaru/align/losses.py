"""Losses on preferences, for each comparison of some answers (Nemotron-4 340B, arXiv 2406.11704, section 3; the letters are its own).

    h = log p(y|x) - log p_ref(y|x)       of every answer
    a = beta (h_i - h_j)                  the implicit gap of rewards, which is trained
    b = eta (r_i - r_j)                   the gap of given rewards, which is constant

    dpo            -(1 - smoothing) log s(a) - smoothing log s(-a)         mean over pairs in which i is better than j; s the sigmoid
    ipo            (h_i - h_j - 1 / (2 beta))^2                            the same pairs
    backward_kl    KL(softmax(eta r) || softmax(beta h))                   over the answers of a prompt
    forward_kl     KL(softmax(beta h) || softmax(eta r))
    squared        (a - b)^2                                               mean over all pairs

For two answers the softmax over them is (s(a), s(-a)), so the divergences are those of the paper between s(b) and s(a); with more they
are between distributions over all answers. The gradient of backward_kl by a is s(a) - s(b): pairs of equal rewards pull together, and
eta r -> infinity makes it DPO.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from amaru.align.terms import Terms


@dataclass(frozen=True)
class Groups:
    """The answers of some comparisons, [C, K] with K that of the largest; `real` says which places hold an answer.

    place    int64 [C, K], the answer's number among all answers of the batch
    rewards  [C, K], 0 where there is none
    better   bool [C, K, K], whether answer i is better than answer j
    best     [C, K], shares that sum to 1 over the best answers of a comparison; `worst` alike
    """

    place: Tensor
    real: Tensor
    rewards: Tensor
    better: Tensor
    best: Tensor
    worst: Tensor

    @property
    def pairs(self) -> Tensor:
        """bool [C, K, K]: two answers to one prompt, whichever is better."""
        others = ~torch.eye(self.real.shape[1], dtype=torch.bool, device=self.real.device)
        return self.real[:, :, None] & self.real[:, None, :] & others

    def like(self, h: Tensor) -> "Groups":
        """On the device and in the dtype of log-ratios."""
        moved = (getattr(self, name).to(h.device) for name in ("place", "real", "rewards", "better", "best", "worst"))
        return Groups(*(each.to(h.dtype) if each.is_floating_point() else each for each in moved))


def preference(terms: Terms, h: Tensor, groups: Groups) -> Tensor:
    """[C]: the loss of each comparison, from the log-ratios h [C, K] of its answers."""
    if terms.method == "rpo" and terms.distance != "squared":
        return _divergence(terms, h, groups)
    gaps = h[:, :, None] - h[:, None, :]
    if terms.method == "rpo":
        of_rewards = groups.rewards[:, :, None] - groups.rewards[:, None, :]
        return mean_over((terms.beta * gaps - terms.eta * of_rewards).square(), groups.pairs)
    if terms.method == "ipo":
        return mean_over((gaps - 1 / (2 * terms.beta)).square(), groups.better)
    a = terms.beta * gaps
    return mean_over(-(1 - terms.smoothing) * F.logsigmoid(a) - terms.smoothing * F.logsigmoid(-a), groups.better)


def _divergence(terms: Terms, h: Tensor, groups: Groups) -> Tensor:
    absent = ~groups.real
    of_model = (terms.beta * h).masked_fill(absent, -torch.inf).log_softmax(-1).masked_fill(absent, 0.0)
    of_rewards = (terms.eta * groups.rewards).masked_fill(absent, -torch.inf).log_softmax(-1).masked_fill(absent, 0.0)
    from_, to = (of_rewards, of_model) if terms.distance == "backward_kl" else (of_model, of_rewards)
    return (from_.exp() * (from_ - to)).masked_fill(absent, 0.0).sum(-1)


def mean_over(values: Tensor, among: Tensor) -> Tensor:
    """[C]: over the pairs of a comparison; 0 where there is none."""
    return torch.where(among, values, 0.0).sum((1, 2)) / among.sum((1, 2)).clamp_min(1)
