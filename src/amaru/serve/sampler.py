"""From logits to one token: greedy, or drawn from a penalised, tempered and truncated distribution."""

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor

from amaru.config import Config
from amaru.errors import CheckpointError
from amaru.serve.rows import Head, Row, tempered


class Sampling(Config):
    """`Sampling(temperature=0.8, top_p=0.95, seed=7)`: how the next token is chosen. In this order:

    repetition_penalty    logits of tokens that the text holds are divided by it where positive, else multiplied
    presence_penalty      is subtracted from logits of tokens that the answer holds
    frequency_penalty     is subtracted from them as often as the answer holds them
    temperature           logits are divided by it; 0 takes the most likely token
    top_k                 only the k most likely tokens (ties at the edge: the lower ids)
    top_p                 only the most likely tokens whose probabilities first add up to this; at least one
    min_p                 only tokens at least this share as likely as the likeliest
    seed                  of the request's own generator, so company in the batch changes nothing
    """

    temperature: float = Field(default=0.8, ge=0, allow_inf_nan=False)
    top_k: int | None = Field(default=None, gt=0)
    top_p: float = Field(default=0.95, gt=0, le=1)
    min_p: float = Field(default=0.0, ge=0, le=1)
    repetition_penalty: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    presence_penalty: float = Field(default=0.0, ge=-2, le=2)
    frequency_penalty: float = Field(default=0.0, ge=-2, le=2)
    seed: int = Field(default=0, ge=0, lt=2**63)

    @property
    def penalises(self) -> bool:
        return (self.repetition_penalty, self.presence_penalty, self.frequency_penalty) != (1, 0, 0)


GREEDY = Sampling(temperature=0, top_p=1)


def penalised(logits: Tensor, sampling: Sampling, prompt: set[int], answer: Mapping[int, int]) -> Tensor:
    """logits [vocab] with the penalties for tokens of the prompt, and of the answer with how often each stands there."""
    logits = logits.clone()
    seen = torch.tensor(sorted(prompt | answer.keys()), device=logits.device)
    if len(seen) and sampling.repetition_penalty != 1:
        held = logits[seen]
        logits[seen] = torch.where(held > 0, held / sampling.repetition_penalty, held * sampling.repetition_penalty)
    if answer:
        ids, counts = (torch.tensor(list(each), device=logits.device) for each in (answer.keys(), answer.values()))
        logits[ids] -= sampling.presence_penalty + sampling.frequency_penalty * counts
    return logits


def candidates(row: Row, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Probabilities and ids of what a token is drawn from, the likeliest first, on the CPU; probabilities add up to one."""
    if sampling.temperature == 0:
        return torch.ones(1, dtype=row.logits.dtype), torch.tensor([row.best])
    p, ids = _likeliest(row, sampling)
    if sampling.top_k is not None:
        p, ids = p[: sampling.top_k], ids[: sampling.top_k]
        p = p / p.sum()
    if sampling.top_p < 1:  # at 1 the rounding of the sum would cut tokens off
        kept = p.cumsum(-1) - p < sampling.top_p
        kept[0] = True  # a top_p may be 0 in fp32
        p, ids = p[kept], ids[kept]
    kept = p >= sampling.min_p * p[0]
    p, ids = p[kept], ids[kept]
    return p / p.sum(), ids


def probabilities(logits: Tensor, sampling: Sampling) -> Tensor:
    """`probabilities(logits [vocab], sampling)`: [vocab] in at least fp32, what a token is drawn from."""
    p, ids = candidates(Row.alone(logits, sampling.temperature), sampling)
    return torch.zeros_like(logits).scatter_(0, ids.to(logits.device), p.to(logits))


class Sampler:
    """`Sampler(sampling)(row) -> token`: one request's choices, reproducible from its seed."""

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling
        self._generator = torch.Generator().manual_seed(sampling.seed)

    def __call__(self, row: Row, allowed: Tensor | None = None) -> int:
        """A row with the temperature of `sampling`, allowed [vocab] bool; the draw is made on the CPU, whatever device computed the row.

        Raises `CheckpointError` for logits that are not finite: no choice among them means anything.
        """
        if not row.finite:
            raise CheckpointError("The model's logits are not finite: its weights are damaged, or overflow their dtype (try another).")
        if allowed is not None:
            places = allowed.nonzero()[:, 0]
            return int(places[self._choice(Row.alone(row.logits[places], self.sampling.temperature))])
        return self._choice(row)

    def _choice(self, row: Row) -> int:
        if self.sampling.temperature == 0:
            return row.best
        p, ids = candidates(row, self.sampling)
        drawn = torch.rand(1, generator=self._generator, dtype=torch.float64)
        place = torch.searchsorted(p.double().cumsum(-1), drawn, right=True)
        return int(ids[place.clamp(max=len(ids) - 1)])


def _likeliest(row: Row, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """p and ids, falling: the head where all others would be cut off anyway, else whatever `sampling` might keep."""
    head = row.head
    if len(head.p) and _decides(head, sampling):
        return head.p, head.ids
    p = tempered(row.logits[None].cpu(), torch.tensor([sampling.temperature], dtype=row.logits.dtype))[0]
    if sampling.top_k is not None:
        least = float(p.topk(min(sampling.top_k, len(p))).values[-1])
    else:
        least = (1 - sampling.top_p) / (2 * len(p))  # all that are less likely add up to less than what top_p leaves out
    ids = (p >= least).nonzero()[:, 0]
    p, order = p[ids].sort(descending=True, stable=True)
    return p, ids[order]


def _decides(head: Head, sampling: Sampling) -> bool:
    if head.edge < 0 or (sampling.top_k is not None and sampling.top_k <= len(head.p)):
        return True
    if sampling.top_k is not None:  # its probabilities are shares of those of the k likeliest, which are not all here
        return False
    return float(head.p.sum()) >= sampling.top_p < 1 or head.edge < sampling.min_p * float(head.p[0])
