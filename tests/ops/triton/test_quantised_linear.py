"""Products with codes of 8 and 4 bits against the weight that they mean, in float64; few rows of x and many."""

import pytest
import torch
from tests.ops.triton.on_device import assert_near, there

from amaru.ops.quantised_linear import dequantise, pack, triton

COLS = 600  # more than the block of 512 that 4 bits are stored in


@pytest.mark.parametrize("rows", [3, 70])
@pytest.mark.parametrize("codes", [torch.int8, torch.float8_e4m3fn, 32, 128])
def test_it_is_the_product_with_what_codes_mean(codes, rows):
    generator = torch.Generator().manual_seed(0)
    held, scales = stored(codes, generator)
    x = torch.randn(rows, COLS + 3, generator=generator).bfloat16()[:, 1 : COLS + 1]
    bias = torch.randn(41, generator=generator).bfloat16()
    expected = x.double() @ dequantise(held, scales, COLS, torch.float32).double().T + bias.double()
    found = triton.quantised_linear(*there([x, held, scales, bias]))
    assert_near([found], [expected], torch.bfloat16)


def test_four_bits_are_made_whole_as_everywhere():
    generator = torch.Generator().manual_seed(1)
    held, scales = stored(64, generator)
    found = triton._whole(*there([torch.zeros(1, COLS), held, scales]))
    assert torch.equal(found.cpu(), dequantise(held, scales, COLS, torch.float32))


def stored(codes, generator):
    """Of [41, COLS] numbers in this dtype, or in 4 bits with so many columns to a scale."""
    if isinstance(codes, torch.dtype):
        return (torch.randn(41, COLS, generator=generator) * 30).clamp(-127, 127).to(codes), torch.rand(41, generator=generator)
    held = pack(torch.randint(0, 16, (41, COLS), dtype=torch.uint8, generator=generator))
    return held, torch.rand(41, 2 * held.shape[1] // codes, generator=generator).bfloat16()
