"""The gated norm in torch, as its formula reads."""

from torch import Tensor
from torch.nn.functional import silu

from amaru.ops.arguments import at_least_fp32


def gated_rmsnorm(y: Tensor, z: Tensor, weight: Tensor, *, groups: int, eps: float) -> Tensor:
    dtype = at_least_fp32(y.dtype)
    u = (y.to(dtype) * silu(z.to(dtype))).unflatten(-1, (groups, -1))
    normed = u * (u.square().mean(-1, keepdim=True) + eps).rsqrt()
    return (normed.flatten(-2) * weight.to(dtype)).to(y.dtype)
