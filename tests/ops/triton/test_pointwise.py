"""Activations and rotations against torch's, in float64, with their gradients; sizes that fill no block."""

import pytest
import torch
from tests.ops.oracle import with_gradients
from tests.ops.triton.on_device import assert_near, there

from amaru.ops.gated_silu import eager as gated_silu
from amaru.ops.gated_silu import triton as gate
from amaru.ops.rotary import eager as rotary
from amaru.ops.rotary import triton as turn
from amaru.ops.squared_relu import eager as squared_relu
from amaru.ops.squared_relu import triton as square

DTYPES = [torch.float32, torch.bfloat16]


def double(tensors):
    return [tensor.double() for tensor in tensors]


@pytest.mark.parametrize("dtype", DTYPES)
def test_squared_relu(dtype):
    x = torch.randn(37, 41, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert_near(with_gradients(square.squared_relu, there([x])), with_gradients(squared_relu.squared_relu, [x.double()]), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gated_silu(dtype):
    tensors = [each.to(dtype) for each in torch.randn(2, 37, 41, generator=torch.Generator().manual_seed(0))]
    assert_near(with_gradients(gate.gated_silu, there(tensors)), with_gradients(gated_silu, double(tensors)), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("angles", [3, 5])
def test_rotary_turns_slices_and_leaves_the_rest(dtype, angles):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(7, 4, 11, generator=generator).to(dtype)[:, 1:]
    turns = torch.rand(7, angles, generator=generator) * 6
    cos, sin = turns.cos(), turns.sin()
    there_cos, there_sin = there([cos, sin])
    expected = with_gradients(lambda t: rotary.rotary(t, cos.double(), sin.double()), [x.double()])
    assert_near(with_gradients(lambda t: turn.rotary(t, there_cos, there_sin), there([x])), expected, dtype)
