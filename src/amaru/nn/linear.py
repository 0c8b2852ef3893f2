"""The one seam for linear layers: storage, deltas and shards plug in here and nowhere else."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Linear(nn.Module):
    """`Linear(rows, cols)(x [..., cols]) -> [..., rows]`. Weight and bias are cast to x's dtype at use."""

    bias: nn.Parameter | None

    def __init__(self, rows: int, cols: int, *, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, cols))
        self.register_parameter("bias", nn.Parameter(torch.zeros(rows)) if bias else None)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))
