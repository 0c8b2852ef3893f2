"""Norms of the residual stream: RMSNorm, and Nemotron-4's LayerNorm whose stored gain is one less than the gain."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amaru.axes import TensorSpec
from amaru.nn.layer import tensor
from amaru.ops.rms_norm import rms_norm

NormKind = Literal["rmsnorm", "layernorm1p"]


class RMSNorm(nn.Module):
    """`RMSNorm(hidden, eps)(x [T, hidden])`: x / rms(x) * weight in at least fp32, cast back to x's dtype."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, eps=self.eps)

    def initialise(self) -> None:
        self.weight.fill_(1)

    @staticmethod
    def tensors() -> dict[str, TensorSpec]:
        return {"weight": tensor("hidden")}


class LayerNorm1P(nn.Module):
    """`LayerNorm1P(hidden, eps)(x)`: (x - mean) / std * (weight + 1) + bias in at least fp32 (Nemotron-4).

    The weight is kept as checkpoints store it, around zero. transformers draws it as one, which doubles the gain of a new
    model; a new one begins at zero here, as in Megatron.
    """

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        dtype = torch.promote_types(x.dtype, torch.float32)
        return F.layer_norm(x.to(dtype), self.weight.shape, self.weight.to(dtype) + 1, self.bias.to(dtype), self.eps).to(x.dtype)

    def initialise(self) -> None:
        self.weight.fill_(0)
        self.bias.fill_(0)

    @staticmethod
    def tensors() -> dict[str, TensorSpec]:
        return {"weight": tensor("hidden"), "bias": tensor("hidden")}


NORMS: dict[NormKind, type[RMSNorm] | type[LayerNorm1P]] = {"rmsnorm": RMSNorm, "layernorm1p": LayerNorm1P}
