"""The loss from all logits at once: the oracle of the chunked form."""

from collections.abc import Callable

from torch import Tensor

from amaru.ops.arguments import at_least_fp32


def head_loss(hidden: Tensor, weight: Tensor, token_loss: Callable[[Tensor, slice], Tensor], *, chunk_tokens: int = 1024) -> Tensor:
    del chunk_tokens  # all tokens are one chunk
    logits = (hidden @ weight.to(hidden.dtype).mT).to(at_least_fp32(hidden.dtype))
    return token_loss(logits, slice(0, len(hidden)))
