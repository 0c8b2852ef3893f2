"""Experts whose weights are codes of 8 or 4 bits."""

import torch
from torch import Tensor, nn

from amaru.nn.mlp import activate
from amaru.ops.linear import linear
from amaru.ops.quantised_linear import Encoding, check_codes, dequantise, quantised_linear


class Codes(nn.Module):
    """What a weight [experts, rows, cols] became: for each expert codes and scales as `ops.quantised_linear` takes them.

    Raises `ConfigError` for shapes that do not fit each other.
    """

    codes: Tensor
    scales: Tensor

    def __init__(self, codes: Tensor, scales: Tensor, cols: int) -> None:
        super().__init__()
        check_codes(codes.flatten(0, 1), scales.flatten(0, 1), cols)
        self.cols = cols
        self.register_buffer("codes", codes)
        self.register_buffer("scales", scales)

    @property
    def encoding(self) -> Encoding:
        return Encoding.of(self.codes[0], self.scales[0])

    def forward(self, x: Tensor, expert: int) -> Tensor:
        return quantised_linear(x, self.codes[expert], self.scales[expert])

    @property
    def weight(self) -> Tensor:
        """What the codes mean, float32 [experts, rows, cols]."""
        return torch.stack([dequantise(*pair, self.cols, torch.float32) for pair in zip(self.codes, self.scales, strict=True)])


class QuantisedExperts(nn.Module):
    """The experts of a `MoE` layer, one projection or both as `Codes`: `forward` is that of `nn.moe.Experts`."""

    def __init__(self, up_proj: nn.Parameter | Codes, down_proj: nn.Parameter | Codes) -> None:
        super().__init__()
        self.up_proj, self.down_proj = up_proj, down_proj

    def forward(self, x: Tensor, counts: list[int]) -> Tensor:
        """x [N, width], the rows of expert 0 first, `counts` of each -> [N, width]. An expert without rows is not touched."""
        hit = [(rows, expert) for expert, rows in enumerate(x.split(counts)) if len(rows)]
        inner = ((activate(_product(rows, self.up_proj, expert), "relu2"), expert) for rows, expert in hit)
        return torch.cat([_product(rows, self.down_proj, expert) for rows, expert in inner])


def _product(x: Tensor, weight: nn.Parameter | Codes, expert: int) -> Tensor:
    return weight(x, expert) if isinstance(weight, Codes) else linear(x, weight[expert].to(x.dtype))
