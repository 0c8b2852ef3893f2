"""Products with codes of 8 bits against the weight that they mean, in float64; few rows of x and many."""

import pytest
import torch
from tests.ops.triton.on_device import assert_near, there

from amaru.ops.quantised_linear import dequantise, triton


@pytest.mark.parametrize("rows", [3, 70])
@pytest.mark.parametrize("codes", [torch.int8, torch.float8_e4m3fn])
def test_it_is_the_product_with_what_codes_mean(codes, rows):
    generator = torch.Generator().manual_seed(0)
    held = (torch.randn(41, 150, generator=generator) * 30).clamp(-127, 127).to(codes)
    x, scales = torch.randn(rows, 153, generator=generator).bfloat16()[:, 1:151], torch.rand(41, generator=generator)
    bias = torch.randn(41, generator=generator).bfloat16()
    expected = x.double() @ dequantise(held, scales, 150, torch.float32).double().T + bias.double()
    found = triton.quantised_linear(*there([x, held, scales, bias]))
    assert_near([found], [expected], torch.bfloat16)
