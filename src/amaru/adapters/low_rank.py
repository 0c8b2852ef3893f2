"""The change that every adapter here makes to a weight: scale · diag(v) B diag(u) A (Tied-LoRA, arXiv 2311.09578); LoRA without u, v."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amaru.adapters.targets import Site
from amaru.ops.linear import linear


class Block(NamedTuple):
    """Sites of one layer that read the same x and share A and u: their rows lie one after the other in B and v."""

    sites: tuple[Site, ...]
    rank: int

    @property
    def name(self) -> str:
        """`layers.0.mixer.q_proj+k_proj+v_proj`"""
        return "+".join([self.sites[0].name, *(site.name.rpartition(".")[2] for site in self.sites[1:])])

    @property
    def role(self) -> str:
        """What equal blocks of other layers have in common: kind and name, and the shape of their weight."""
        name = "+".join([self.sites[0].role, *(site.role.rpartition(".")[2] for site in self.sites[1:])])
        return f"{self.sites[0].kind}.{name}.{self.rows}x{self.cols}"

    @property
    def rows(self) -> int:
        return sum(site.rows for site in self.sites)

    @property
    def cols(self) -> int:
        return self.sites[0].cols

    def shape(self, factor: str) -> tuple[int, ...]:
        shapes = {"A": (self.rank, self.cols), "B": (self.rows, self.rank), "u": (self.rank,), "v": (self.rows,), "magnitude": (self.rows,)}
        return shapes[factor]

    def parts(self) -> list[tuple[Site, slice]]:
        """Each site with its rows of B and v."""
        found, start = [], 0
        for site in self.sites:
            found.append((site, slice(start, start + site.rows)))
            start += site.rows
        return found


class Factors(nn.Module):
    """Those of A, B, u, v (and DoRA's magnitude) that a block has for itself, or that a group of blocks shares.

    Blocks hold the module of their group and not its parameters, which `.to` may replace.
    """

    def __init__(self, block: Block, names: tuple[str, ...], dtype: torch.dtype) -> None:
        super().__init__()
        for name in names:
            self.register_parameter(name, nn.Parameter(torch.empty(block.shape(name), dtype=dtype)))


class LowRank(Factors):
    """`LowRank(block, names, dtype, group, scale=1.0)(x [..., cols], rows) -> [..., rows]`: what a block adds to the products of its sites.

    `names` are the factors that it has for itself; the others are its group's.
    """

    def __init__(
        self, block: Block, names: tuple[str, ...], dtype: torch.dtype, group: Factors | None, scale: float, dropout: float = 0.0
    ) -> None:
        super().__init__(block, names, dtype)
        self._group = [group]  # in a list, so that the parameters of a group are registered once, with the adapter
        self.scale, self.dropout = scale, dropout

    def factor(self, name: str) -> Tensor | None:
        """A factor of this block, or of its group; None: one everywhere."""
        holders = [holder for holder in (self, self._group[0]) if holder is not None]
        return next((getattr(holder, name) for holder in holders if hasattr(holder, name)), None)

    def forward(self, x: Tensor, rows: slice) -> Tensor:
        A, B, u, v = self._factors(rows, x.dtype)
        low = linear(F.dropout(x, self.dropout, self.training), A) * self.scale
        y = linear(low if u is None else low * u, B)
        return y if v is None else y * v

    def matrix(self, rows: slice, dtype: torch.dtype) -> Tensor:
        """[rows, cols]: the same change as a matrix."""
        A, B = self.pair(rows, dtype)
        return B @ (A * self.scale)

    def pair(self, rows: slice, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """diag(u) A [rank, cols] and diag(v) B [rows, rank]: the change is their product, scaled."""
        A, B, u, v = self._factors(rows, dtype)
        return A if u is None else u[:, None] * A, B if v is None else v[:, None] * B

    def gain(self, rows: slice, weight: Tensor) -> Tensor | None:
        """[rows]: what DoRA multiplies each row of the changed weight by; its norm is a constant in gradients (arXiv 2402.09353, 4.3)."""
        magnitude = self.factor("magnitude")
        if magnitude is None:
            return None
        with torch.no_grad():
            norm = (weight + self.matrix(rows, weight.dtype)).norm(dim=1)
        return magnitude[rows].to(weight.dtype) / norm

    def _factors(self, rows: slice, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        A, B, u, v = (self.factor(name) for name in ("A", "B", "u", "v"))
        assert A is not None and B is not None, "every block has A and B"
        return A.to(dtype), B[rows].to(dtype), None if u is None else u.to(dtype), None if v is None else v[rows].to(dtype)
