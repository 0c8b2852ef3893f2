"""The gate against float64, and torch's roundings."""

import pytest
import torch
import torch.nn.functional as F
from tests.ops.oracle import BF16, FP32, assert_close

from amaru.ops.gated_silu import eager, native


@pytest.mark.parametrize(("dtype", "rounded"), [(torch.float32, FP32), (torch.bfloat16, BF16)])
@pytest.mark.parametrize("size", [(1, 7), (9, 9001)])
def test_native_and_eager_equal_float64(size, dtype, rounded):
    torch.manual_seed(0)
    gate, up = (torch.randn(size).mul(5).to(dtype) for _ in range(2))
    expected = F.silu(gate.double()) * up.double()
    for backend in (native.gated_silu, eager):
        assert_close([backend(gate, up)], [expected], rounded)
