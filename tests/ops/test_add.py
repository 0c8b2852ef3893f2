"""The residual sum: the bits of torch's, with and without gradients."""

import pytest
import torch

from amaru.ops.add import add, native


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 7), (33, 130)])
def test_native_has_the_bits_of_torch(shape, dtype):
    torch.manual_seed(0)
    x, y = (torch.randn(shape).mul(1e3).to(dtype) for _ in range(2))
    x[0, 0], y[0, 1] = float("inf"), float("nan")
    assert torch.equal(native.add(x, y).nan_to_num(1.5), (x + y).nan_to_num(1.5))


def test_gradients_and_mixed_dtypes_are_torchs():
    x = torch.randn(2, 3, requires_grad=True)
    add(x, x).sum().backward()
    assert torch.equal(x.grad, torch.full((2, 3), 2.0))  # type: ignore[arg-type]
    assert add(x.detach().double(), x.detach()).dtype is torch.float64
