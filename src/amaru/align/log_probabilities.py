"""log p of given tokens, with a gradient, while the logits of all of them never exist at once."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from amaru.distill.teacher import chunk_of
from amaru.ops.arguments import at_least_fp32


def log_probabilities(hidden: Tensor, weight: Tensor, targets: Tensor, chunk_tokens: int | None = None) -> Tensor:
    """[T], in nats: `log_probabilities(model.hidden_states(batch), model.head.weight, targets).sum()`.

    hidden [T, hidden]; weight [vocab, hidden], cast to hidden's dtype for the product; targets int64 [T]. Logits exist for `chunk_tokens`
    tokens at a time (None: `chunk_of` the vocabulary), in the forward pass and once more in the backward pass: a loss of sums, which
    is what preferences need, has its gradient only when all sums are known. At least float32.
    """
    return _LogProbabilities.apply(hidden, weight, targets, chunk_tokens or chunk_of(len(weight)))  # type: ignore[no-any-return]


class _LogProbabilities(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, chunk_tokens: int) -> Tensor:
        cast, totals, found = weight.to(hidden.dtype), [], []
        for rows in _chunks(len(hidden), chunk_tokens):
            logits = _logits(hidden[rows], cast)
            totals.append(logits.logsumexp(-1))
            found.append(logits.gather(-1, targets[rows, None])[:, 0] - totals[-1])
        empty = hidden.new_empty(0, dtype=at_least_fp32(hidden.dtype))
        ctx.save_for_backward(hidden, weight, targets, torch.cat([empty, *totals]))
        ctx.chunk_tokens = chunk_tokens
        return torch.cat([empty, *found])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        hidden, weight, targets, totals = ctx.saved_tensors
        cast = weight.to(hidden.dtype)
        grad_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        grad_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        for rows in _chunks(len(hidden), ctx.chunk_tokens):
            shares = _logits(hidden[rows], cast).sub_(totals[rows, None]).exp_().mul_(-grad[rows, None])
            shares.scatter_add_(1, targets[rows, None], grad[rows, None])
            of_logits = shares.to(hidden.dtype)
            if grad_hidden is not None:
                torch.mm(of_logits, cast, out=grad_hidden[rows])
            if grad_weight is not None:
                grad_weight += of_logits.mT @ hidden[rows]
        return grad_hidden, grad_weight, None, None


def _logits(hidden: Tensor, weight: Tensor) -> Tensor:
    return (hidden @ weight.mT).to(at_least_fp32(hidden.dtype))


def _chunks(tokens: int, size: int) -> list[slice]:
    return [slice(first, min(first + size, tokens)) for first in range(0, tokens, size)]
