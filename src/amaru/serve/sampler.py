"""From logits to one token: greedy, or drawn from a tempered and truncated distribution."""

import torch
from pydantic import Field
from torch import Tensor

from amaru.config import Config
from amaru.errors import CheckpointError


class Sampling(Config):
    """`Sampling(temperature=0.8, top_p=0.95, seed=7)`: how the next token is chosen.

    temperature   logits are divided by it; 0 takes the most likely token
    top_k         only the k most likely tokens (ties at the edge: the lower ids)
    top_p         only the most likely tokens whose probabilities first add up to this; at least one
    seed          of the request's own generator, so company in the batch changes nothing
    """

    temperature: float = Field(default=0.8, ge=0, allow_inf_nan=False)
    top_k: int | None = Field(default=None, gt=0)
    top_p: float = Field(default=0.95, gt=0, le=1)
    seed: int = Field(default=0, ge=0, lt=2**63)


GREEDY = Sampling(temperature=0, top_p=1)


def probabilities(logits: Tensor, sampling: Sampling) -> Tensor:
    """`probabilities(logits [vocab], sampling)`: [vocab] in at least fp32, what a token is drawn from.

    Temperature first, then top_k, then top_p on what top_k left; the survivors are scaled to sum to one.
    """
    if sampling.temperature == 0:
        return torch.nn.functional.one_hot(logits.argmax(-1), len(logits)).to(logits.dtype)
    # The largest logit becomes 0, so that a temperature of 1e-30 gives -inf for the others instead of inf - inf.
    p, ids = ((logits - logits.max()) / sampling.temperature).softmax(-1).sort(descending=True, stable=True)
    if sampling.top_k is not None:
        p[sampling.top_k :] = 0
        p /= p.sum()
    if sampling.top_p < 1:  # at 1 the rounding of the sum would cut tokens off
        p[p.cumsum(-1) - p >= sampling.top_p] = 0
    return torch.zeros_like(p).scatter_(0, ids, p / p.sum())


class Sampler:
    """`Sampler(sampling)(logits) -> token`: one request's choices, reproducible from its seed."""

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling
        self._generator = torch.Generator().manual_seed(sampling.seed)

    def __call__(self, logits: Tensor) -> int:
        """logits [vocab] in at least fp32; the draw is made on the CPU, the same whatever device computed them.

        Raises `CheckpointError` for logits that are not finite: no choice among them means anything.
        """
        if not logits.isfinite().all():
            raise CheckpointError("The model's logits are not finite: its weights are damaged, or overflow their dtype (try another).")
        if self.sampling.temperature == 0:
            return int(logits.argmax())
        p = probabilities(logits.cpu(), self.sampling)
        return int(torch.multinomial(p, 1, generator=self._generator))
