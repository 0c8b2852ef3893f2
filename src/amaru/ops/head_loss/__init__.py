"""The output head and its loss together, so that the logits of all tokens never exist at once."""

from collections.abc import Callable

import torch
from torch import Tensor

from amaru.errors import ConfigError
from amaru.ops.backends import Backend, Op
from amaru.ops.head_loss import chunked, reference
from amaru.ops.head_loss.cross_entropy import TokenCrossEntropy

__all__ = ["TokenCrossEntropy", "head_loss"]

TokenLoss = Callable[[Tensor, slice], Tensor]


def head_loss(hidden: Tensor, weight: Tensor, token_loss: TokenLoss, *, chunk_tokens: int = 1024) -> Tensor:
    """The sum of a loss over all tokens, from the last hidden states and the weight of the head.

    >>> loss = head_loss(hidden, head.weight, TokenCrossEntropy(targets)) / len(targets); loss.backward()
    >>> def token_loss(logits, rows): return cross_entropy(logits, targets[rows], reduction="sum")
    >>> loss = head_loss(hidden, head.weight, token_loss)      # the same; any other loss goes this way

    hidden [T, hidden]; weight [vocab, hidden], cast to hidden's dtype for the product. `token_loss(logits, rows)` gets
    the logits [n, vocab] (at least float32) of the tokens `rows`, a slice, and returns their summed loss. The gradients
    of hidden and weight are computed in the forward pass, chunk by chunk, so only chunk_tokens * vocab logits exist at once: in
    hidden's dtype and nothing beside them for `TokenCrossEntropy` where its kernels serve, else with float32 copies of them and their
    gradients.
    Returns a scalar (at least float32). Raises `ConfigError` for shapes that do not fit, and if `token_loss` uses another
    tensor that requires a gradient: that one would silently get none.
    """
    if hidden.dim() != 2 or weight.dim() != 2 or hidden.shape[1] != weight.shape[1]:
        raise ConfigError(f"hidden is [T, hidden] and weight [vocab, hidden]; got {list(hidden.shape)} and {list(weight.shape)}.")
    if chunk_tokens < 1:
        raise ConfigError(f"chunk_tokens must be at least 1; got {chunk_tokens}.")
    return HEAD_LOSS(hidden, weight, token_loss, chunk_tokens=chunk_tokens)


def _sample(dtype: torch.dtype) -> tuple[tuple, dict]:
    return (torch.zeros(2, 4, dtype=dtype), torch.zeros(8, 4), lambda logits, rows: logits.sum()), {}


HEAD_LOSS = Op("head_loss", _sample, Backend("chunked", chunked.head_loss), Backend("reference", reference.head_loss))
