"""Logits, loss and gradients chunk by chunk in one pass.

The loss is a sum over tokens, so a chunk's gradient is final as soon as its logits exist: the backward pass only
scales what the forward pass left behind.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from amaru.errors import ConfigError
from amaru.ops.arguments import at_least_fp32
from amaru.ops.head_loss.cross_entropy import TokenCrossEntropy

TokenLoss = Callable[[Tensor, slice], Tensor]


def head_loss(hidden: Tensor, weight: Tensor, token_loss: TokenLoss, *, chunk_tokens: int = 1024) -> Tensor:
    if torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad):
        return _HeadLoss.apply(hidden, weight, token_loss, chunk_tokens)  # type: ignore[no-any-return]
    cast = weight.to(hidden.dtype)
    losses = [token_loss(_logits(hidden[rows], cast), rows) for rows in _chunks(len(hidden), chunk_tokens)]
    return torch.stack(losses).sum() if losses else hidden.new_zeros((), dtype=at_least_fp32(hidden.dtype))


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, token_loss: TokenLoss, chunk_tokens: int) -> Tensor:
        cast = weight.to(hidden.dtype)
        total = hidden.new_zeros((), dtype=at_least_fp32(hidden.dtype))
        grad_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        grad_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        for rows in _chunks(len(hidden), chunk_tokens):
            loss, grad = _loss_and_gradient(token_loss, hidden[rows] @ cast.mT, rows)
            total += loss
            if grad_hidden is not None:
                torch.mm(grad, cast, out=grad_hidden[rows])
            if grad_weight is not None:
                grad_weight += grad.mT @ hidden[rows]
        ctx.gradients = grad_hidden, grad_weight
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        if ctx.gradients is None:
            raise ConfigError("The loss at the head gives its gradients once, scaled where they lie; compute it anew for another backward.")
        hidden, weight = (None if saved is None else saved.mul_(grad) for saved in ctx.gradients)
        ctx.gradients = None
        return hidden, weight, None, None


def _logits(hidden: Tensor, weight: Tensor) -> Tensor:
    return (hidden @ weight.mT).to(at_least_fp32(hidden.dtype))


def _chunks(tokens: int, size: int) -> Iterator[slice]:
    for start in range(0, tokens, size):
        yield slice(start, min(start + size, tokens))


def _loss_and_gradient(token_loss: TokenLoss, product: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
    """The loss of one chunk and its gradient by the logits, in their dtype."""
    if isinstance(token_loss, TokenCrossEntropy) and token_loss.serves(product):
        return token_loss.replace(product, rows), product
    with torch.enable_grad():
        logits = product.to(at_least_fp32(product.dtype)).requires_grad_()
        loss = token_loss(logits, rows)
        if rows.start == 0:
            _require_only(logits, loss)
        (grad,) = torch.autograd.grad(loss, logits)
    return loss.detach(), grad.to(product.dtype)


def _require_only(logits: Tensor, loss: Tensor) -> None:
    """Raise `ConfigError` if the loss depends on a leaf tensor that wants a gradient and is not the logits."""
    pending, seen = [loss.grad_fn], set()
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)  # only the nodes that accumulate into a leaf have one
        if leaf is not None and leaf is not logits:
            raise ConfigError(
                f"token_loss uses another tensor of shape {list(leaf.shape)} that requires a gradient, which it would not get; "
                "detach it, or compute it under torch.no_grad()."
            )
        pending += [following for following, _ in node.next_functions]
