"""Both norms against their formulas in float64, in slices of wider rows too."""

import pytest
import torch
from tests.ops.oracle import with_gradients
from tests.ops.test_gated_rmsnorm import SHAPES, arguments, run
from tests.ops.triton.on_device import assert_near, every, there

from amaru.ops.gated_rmsnorm import reference
from amaru.ops.gated_rmsnorm import triton as gated
from amaru.ops.rms_norm import eager
from amaru.ops.rms_norm import triton as plain


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", every(SHAPES, SHAPES[0]))
def test_with_a_gate(shape, dtype):
    tokens, inner, groups = shape
    tensors = arguments(tokens, inner, dtype)
    expected = with_gradients(run(reference.gated_rmsnorm, groups), [tensor.double() for tensor in tensors])
    assert_near(with_gradients(run(gated.gated_rmsnorm, groups), there(tensors)), expected, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 8), (3, 7, 51)])
def test_without_one(shape, dtype):
    torch.manual_seed(0)
    tensors = [torch.randn(shape).to(dtype), torch.randn(shape[-1])]
    expected = with_gradients(lambda x, weight: eager.rms_norm(x, weight, eps=1e-5), [tensor.double() for tensor in tensors])
    assert_near(with_gradients(lambda x, weight: plain.rms_norm(x, weight, eps=1e-5), there(tensors)), expected, dtype)


def test_slices_of_wider_rows():
    torch.manual_seed(0)
    wide = there(torch.randn(5, 64))
    y, z = wide[:, 3:33], wide[:, 33:63]
    weight = there(torch.randn(30))
    copied = gated.gated_rmsnorm(y.clone(), z.clone(), weight, groups=2, eps=1e-5)
    assert torch.equal(gated.gated_rmsnorm(y, z, weight, groups=2, eps=1e-5), copied)
    assert torch.equal(plain.rms_norm(y, weight, eps=1e-5), plain.rms_norm(y.clone(), weight, eps=1e-5))
