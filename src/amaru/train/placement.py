"""Where a run's model and batches lie: all in this process, or a part of each in every one of several.

The loop asks here for what differs between the two; `train.parallel` answers for several.
"""

from collections.abc import Sequence
from typing import Protocol, cast

from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from amaru.train.checkpoint import fingerprint_weights

TINY = 1e-6  # what torch adds to a norm before it divides


class Placement(Protocol):
    """`share` of `shares` of every batch is trained on here; `leads` says whether this process writes the record."""

    share: int
    shares: int
    leads: bool

    def total(self, values: Sequence[float]) -> list[float]:
        """Each value summed over the shares of a batch; the same bits everywhere."""
        ...

    def sum_counts(self, counts: Tensor) -> None:
        """The same, in place."""
        ...

    def clip(self, model: nn.Module, limit: float) -> float:
        """The norm of the whole model's gradient, which is scaled down to `limit` where it is larger."""
        ...

    def agreed(self, wishes: Sequence[bool]) -> list[bool]:
        """Which of these some process wishes, so that all do it at the same step."""
        ...

    def fingerprint(self, model: nn.Module) -> str:
        """A hash of the weights that a run starts from; "" where nobody has all of them, and `made_from` must tell."""
        ...


class Alone:
    """One process has it all."""

    share, shares, leads = 0, 1, True

    def total(self, values: Sequence[float]) -> list[float]:
        return list(values)

    def sum_counts(self, counts: Tensor) -> None: ...

    def clip(self, model: nn.Module, limit: float) -> float:
        parameters = [parameter for parameter in model.parameters() if parameter.grad is not None]
        norm = get_total_norm([cast(Tensor, parameter.grad) for parameter in parameters])
        if not norm <= limit - TINY:  # else a factor of one would be multiplied into every number
            clip_grads_with_norm_(parameters, limit, norm)
        return norm.item()

    def agreed(self, wishes: Sequence[bool]) -> list[bool]:
        return list(wishes)

    def fingerprint(self, model: nn.Module) -> str:
        return fingerprint_weights(model)


ALONE = Alone()
