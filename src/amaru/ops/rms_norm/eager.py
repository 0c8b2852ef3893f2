"""The norm by torch."""

import torch.nn.functional as F
from torch import Tensor

from amaru.ops.arguments import at_least_fp32


def rms_norm(x: Tensor, weight: Tensor, *, eps: float) -> Tensor:
    dtype = at_least_fp32(x.dtype)
    return F.rms_norm(x.to(dtype), weight.shape, weight.to(dtype), eps).to(x.dtype)
