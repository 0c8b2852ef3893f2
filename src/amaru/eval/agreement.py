"""How near a model is to a teacher, by the place of a token in its sequence: drift shows where a state forgets or a window ends."""

from dataclasses import dataclass

import torch
from torch import Tensor

from amaru.config import Config

TOP = 5


class Agreement(Config):
    """Means over `tokens` at places `first` to `last` of their sequences, counted from 0.

    kl     KL(teacher || model) in nats per token
    top1   share of tokens where both have the same highest logit
    top5   of the teacher's five likeliest tokens, the share that are among the model's five
    """

    first: int
    last: int
    tokens: int
    kl: float
    top1: float
    top5: float


@dataclass
class ByPosition:
    """`by = ByPosition()`, `by.add(places, logits, theirs)` again and again, then `by.rows()`; places 0, 1, 2-3, 4-7, ... together."""

    def __post_init__(self) -> None:
        self._sums: dict[int, Tensor] = {}

    def add(self, places: Tensor, logits: Tensor, theirs: Tensor) -> None:
        """places [n] int64; logits and theirs [n, vocab] of model and teacher."""
        octaves = torch.log2(places.double().clamp(min=0.5)).floor().long() + 1  # 0, 1, 2-3, 4-7: 0, 1, 2, 3
        log_p, log_q = theirs.log_softmax(-1), logits.log_softmax(-1)
        top = min(TOP, logits.shape[-1])
        mine, wanted = logits.topk(top).indices, theirs.topk(top).indices
        facts = torch.stack(
            [
                torch.ones(len(places), dtype=torch.float64, device=logits.device),
                (log_p.exp() * (log_p - log_q)).sum(-1).double(),
                (mine[:, 0] == wanted[:, 0]).double(),
                (wanted[:, :, None] == mine[:, None, :]).any(-1).double().mean(-1),
            ]
        ).cpu()
        for octave in octaves.unique().tolist():
            self._sums[octave] = self._sums.get(octave, torch.zeros(4, dtype=torch.float64)) + facts[:, (octaves == octave).cpu()].sum(-1)

    def rows(self) -> list[Agreement]:
        found = []
        for octave, sums in sorted(self._sums.items()):
            tokens, kl, top1, top5 = sums.tolist()
            first, last = (0, 0) if octave == 0 else (2 ** (octave - 1), 2**octave - 1)
            found.append(Agreement(first=first, last=last, tokens=int(tokens), kl=kl / tokens, top1=top1 / tokens, top5=top5 / tokens))
        return found
