"""The one seam for linear layers: storage, deltas and shards plug in here and nowhere else."""

import torch
from torch import Tensor, nn

from amaru.ops.linear import linear
from amaru.ops.quantised_linear import Encoding, check_codes, dequantise, quantised_linear


class Linear(nn.Module):
    """`Linear(rows, cols)(x [..., cols]) -> [..., rows]`. Weight and bias are cast to x's dtype at use."""

    bias: nn.Parameter | None

    def __init__(self, rows: int, cols: int, *, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, cols))
        self.register_parameter("bias", nn.Parameter(torch.zeros(rows)) if bias else None)

    def used(self) -> Tensor:
        """The weight as products see it: itself, where no kind of training looks at it through something."""
        return self.weight

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight, self.bias
        if weight.dtype is not x.dtype:  # asked first: a cast that changes nothing still costs a microsecond
            weight = weight.to(x.dtype)
        return linear(x, weight, None if bias is None else bias.to(x.dtype))


class QuantisedLinear(nn.Module):
    """`QuantisedLinear(codes, scales, cols)(x [..., cols]) -> [..., rows]`: a weight of 8 or 4 bits, which is not trained.

    Codes and scales as `ops.quantised_linear` takes them; `precision.encode` makes them of a weight. Raises `ConfigError` for shapes
    that do not fit each other.
    """

    codes: Tensor
    scales: Tensor
    bias: nn.Parameter | None

    def __init__(self, codes: Tensor, scales: Tensor, cols: int, bias: Tensor | None = None) -> None:
        super().__init__()
        check_codes(codes, scales, cols)
        self.cols = cols
        self.register_buffer("codes", codes)
        self.register_buffer("scales", scales)
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias.detach(), requires_grad=False))

    @property
    def encoding(self) -> Encoding:
        return Encoding.of(self.codes, self.scales)

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        if x.dim() == 2:
            return quantised_linear(x, self.codes, self.scales, bias)
        return quantised_linear(x.flatten(0, -2), self.codes, self.scales, bias).unflatten(0, x.shape[:-1])

    @property
    def weight(self) -> Tensor:
        """What the codes mean, float32 [rows, cols]."""
        return dequantise(self.codes, self.scales, self.cols, torch.float32)

    def extra_repr(self) -> str:
        return f"rows={len(self.codes)}, cols={self.cols}, {self.encoding}"
