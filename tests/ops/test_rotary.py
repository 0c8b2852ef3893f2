"""The rotation: the bits of torch's, and of a complex product."""

import pytest
import torch
from tests.ops.oracle import FP32, assert_close

from amaru.ops.rotary import eager, native


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 1, 2), (5, 3, 14), (33, 4, 64)])
def test_native_has_the_bits_of_torch(shape, dtype):
    torch.manual_seed(0)
    tokens, heads, channels = shape
    x = torch.randn(tokens, heads + 2, channels).to(dtype)[:, 1:-1]
    for pairs in {1, channels // 2}:
        angles = torch.randn(tokens, pairs) * 100
        assert torch.equal(native.rotary(x, angles.cos(), angles.sin()), eager.rotary(x, angles.cos(), angles.sin()))


def test_a_pair_turns_as_a_complex_number_does():
    torch.manual_seed(0)
    x, angles = torch.randn(7, 3, 10), torch.randn(7, 4)
    turned = torch.complex(x[..., :4], x[..., 4:8]) * torch.polar(torch.ones(7, 4), angles)[:, None]
    expected = torch.cat([turned.real, turned.imag, x[..., 8:]], dim=-1)
    assert_close([eager.rotary(x, angles.cos(), angles.sin())], [expected.double()], FP32)
