"""A projection whose three products take 8-bit floats, emulated: the operands are rounded as a GPU rounds them, the sums are wide."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from amaru.nn.linear import Linear
from amaru.precision.fp8_cast import E4M3, E5M2, encode, widened


class Fp8Linear(nn.Module):
    """`Fp8Linear(linear)(x [..., cols]) -> [..., rows]` in x's dtype: weight and x in E4M3, the output's gradient in E5M2.

    It holds the very parameters of `linear` (the master weights), so optimizers and checkpoints see no difference. A bias is added
    in x's dtype. A weight, x or gradient that is not finite makes the whole product NaN, so that it is seen in the loss.
    """

    bias: nn.Parameter | None

    def __init__(self, linear: Linear) -> None:
        super().__init__()
        self.weight = linear.weight
        self.register_parameter("bias", linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = _Product.apply(x.flatten(0, -2), self.weight)  # type: ignore[assignment]
        y = y.unflatten(0, x.shape[:-1])
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def extra_repr(self) -> str:
        rows, cols = self.weight.shape
        return f"rows={rows}, cols={cols}, emulated"


class _Product(torch.autograd.Function):
    """y = x wᵀ, dx = dy w, dw = dyᵀ x, each of codes; between forward and backward the codes are kept, a byte a number."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        scaled_x, scaled_weight = encode(x, E4M3), encode(weight, E4M3)
        ctx.save_for_backward(scaled_x.codes, scaled_weight.codes)
        ctx.scales = (scaled_x.scale, scaled_weight.scale)
        ctx.weight_dtype = weight.dtype
        values = widened(scaled_x.codes, x.dtype), widened(scaled_weight.codes, x.dtype)
        return _product(values[0], values[1].t(), scaled_x.scale * scaled_weight.scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        x_scale, weight_scale = ctx.scales
        codes, scale = encode(dy, E5M2)
        gradient = widened(codes, dy.dtype)
        needs_x, needs_weight = ctx.needs_input_grad
        dx = _product(gradient, widened(weight, dy.dtype), scale * weight_scale) if needs_x else None
        dw = _product(gradient.t(), widened(x, dy.dtype), scale * x_scale).to(ctx.weight_dtype) if needs_weight else None
        return dx, dw


def _product(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """a b / scale, summed in at least float32; the division comes before the one rounding to the operands' dtype, as on a GPU."""
    return torch.addmm(a.new_zeros(()), a, b, beta=0, alpha=1 / scale)
