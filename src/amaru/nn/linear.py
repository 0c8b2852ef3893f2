"""The one seam for linear layers: storage, deltas and shards plug in here and nowhere else."""

import torch
from torch import Tensor, nn

from amaru.ops.linear import linear


class Linear(nn.Module):
    """`Linear(rows, cols)(x [..., cols]) -> [..., rows]`. Weight and bias are cast to x's dtype at use."""

    bias: nn.Parameter | None

    def __init__(self, rows: int, cols: int, *, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, cols))
        self.register_parameter("bias", nn.Parameter(torch.zeros(rows)) if bias else None)

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight, self.bias
        if weight.dtype is not x.dtype:  # asked first: a cast that changes nothing still costs a microsecond
            weight = weight.to(x.dtype)
        return linear(x, weight, None if bias is None else bias.to(x.dtype))
