"""The product by torch, which chooses its kernel, and with it the order of sums, by the number of rows."""

import torch
import torch.nn.functional as F
from torch import Tensor

from amaru.ops.exactness import is_exact


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    if not is_exact() or x.dim() == 1:
        return F.linear(x, weight, bias)
    rows = [F.linear(row, weight, bias) for row in x.flatten(0, -2).split(1)]
    return torch.cat(rows).unflatten(0, x.shape[:-1]) if rows else F.linear(x, weight, bias)
