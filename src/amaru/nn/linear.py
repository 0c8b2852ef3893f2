"""The one seam for linear layers: storage, deltas and shards plug in here and nowhere else."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Linear(nn.Module):
    """`Linear(rows, cols)(x [..., cols]) -> [..., rows]`; no bias. The weight is cast to x's dtype at use."""

    def __init__(self, rows: int, cols: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, cols))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype))
