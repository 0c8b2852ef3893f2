"""A linear layer with what adapters add to it: the one place where their changes meet the base weight."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amaru.adapters.low_rank import LowRank
from amaru.errors import ConfigError
from amaru.nn.linear import Linear, QuantisedLinear

Base = Linear | QuantisedLinear


class Change(NamedTuple):
    """What a block adds to `rows` of one linear layer; they are `part` of its own rows."""

    low_rank: LowRank
    rows: slice
    part: slice

    def added(self, x: Tensor, y: Tensor, base: Base) -> Tensor:
        """[..., rows of the base], from x and y = base(x)."""
        change = self.low_rank(x, self.part)
        if (gain := self._gain(base)) is not None:
            plain = y if base.bias is None else y - base.bias.to(y.dtype)
            gain = gain.to(y.dtype)
            change = (gain - 1) * plain[..., self.rows] + gain * change
        return F.pad(change, (self.rows.start, y.shape[-1] - self.rows.stop)) if change.shape != y.shape else change

    def matrix(self, base: Base, dtype: torch.dtype) -> Tensor:
        """[rows of the base, cols]: the same as a matrix."""
        change = self.low_rank.matrix(self.part, dtype)
        weight = base.weight
        if (gain := self._gain(base)) is not None:
            rows = weight[self.rows].to(dtype)
            change = gain.to(dtype)[:, None] * (rows + change) - rows
        return F.pad(change, (0, 0, self.rows.start, len(weight) - self.rows.stop))

    def _gain(self, base: Base) -> Tensor | None:
        if self.low_rank.factor("magnitude") is None:
            return None
        weight = base.weight[self.rows].detach()
        return self.low_rank.gain(self.part, weight.to(torch.promote_types(weight.dtype, torch.float32)))


class Active(nn.Module):
    """The names of adapters that are added, each to all tokens or to those at its `rows`.

    A module, and a new one for each choice: recordings of a decoder notice that by its parts.
    """

    def __init__(self, *names: str, rows: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        self.names, self.rows = names, rows


class AdaptedLinear(nn.Module):
    """`AdaptedLinear(base)(x [..., cols]) -> [..., rows]`: base(x) and what the active adapters add, each to the base alone.

    Adapters own their parameters; `changes` only points to them. While merged, the base holds the sum, and `before` what it held.
    """

    def __init__(self, base: Base) -> None:
        super().__init__()
        self.base = base
        self.changes: dict[str, list[Change]] = {}
        self.active = Active()
        self.before: nn.Parameter | None = None

    def forward(self, x: Tensor) -> Tensor:
        y = plain = self.base(x)
        if self.active.rows is not None:
            return self._by_rows(x, plain, self.active.rows)
        for change in self._added():
            y = y + change.added(x, plain, self.base)
        return y

    def _by_rows(self, x: Tensor, plain: Tensor, rows: Mapping[str, Tensor]) -> Tensor:
        y = plain
        for name in self.active.names:
            places = rows[name].to(x.device)
            for change in self.changes[name]:
                y = y.index_add(0, places, change.added(x[places], plain[places], self.base))
        return y

    @property
    def weight(self) -> Tensor:
        """[rows, cols]: the weight that x meets, for losses that read the head's; gradients reach the adapters through it."""
        if any(change.low_rank.dropout and change.low_rank.training for change in self._added()):
            raise ConfigError("This loss reads the weight of the head, which has no dropout to speak of; train the head with dropout 0.")
        return sum((change.matrix(self.base, self._dtype) for change in self._added()), self.base.weight.to(self._dtype))

    @property
    def bias(self) -> nn.Parameter | None:
        return self.base.bias

    @property
    def _dtype(self) -> torch.dtype:
        return torch.promote_types(self.base.weight.dtype, torch.float32)

    @torch.no_grad()
    def merge(self) -> float:
        """Make the sum the base's weight; the largest |stored - exact| over the largest |exact|, exact being a sum in float64."""
        if isinstance(self.base, QuantisedLinear):
            raise ConfigError("An adapter cannot be merged into codes; merge it into the checkpoint that was quantised.")
        exact = self.base.weight.double()
        for change in self._added():
            exact = exact + change.matrix(self.base, torch.float64)
        self.before, self.base.weight = self.base.weight, nn.Parameter(exact.to(self.base.weight.dtype), requires_grad=False)
        return float((self.base.weight - exact).abs().max() / exact.abs().max().clamp_min(1e-30))

    def unmerge(self) -> None:
        """Give the base its weight back, to the bit."""
        if self.before is not None and isinstance(self.base, Linear):
            self.base.weight, self.before = self.before, None

    def _added(self) -> list[Change]:
        if self.before is not None:
            return []
        return [change for name in self.active.names for change in self.changes.get(name, ())]
