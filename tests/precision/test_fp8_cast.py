"""E4M3 and E5M2 against the formats' definitions, written out number by number."""

import math

import pytest
import torch

from amaru.precision.fp8_cast import E4M3, E5M2, LARGEST, SMALLEST_AMAX, encode, largest, scale_for, widened

FIELDS = {E4M3: (4, 3, 7), E5M2: (5, 2, 15)}  # exponent bits, mantissa bits, bias


def numbers(kind):
    """Every finite number of a format at the place of its code, in fp64; NaN where the code is none."""
    exponent_bits, mantissa_bits, bias = FIELDS[kind]
    values = torch.full((256,), torch.nan, dtype=torch.float64)
    for code in range(256):
        exponent, mantissa = code >> mantissa_bits & (1 << exponent_bits) - 1, code & (1 << mantissa_bits) - 1
        share = mantissa / (1 << mantissa_bits)
        size = math.ldexp(1 + share, exponent - bias) if exponent else math.ldexp(share, 1 - bias)
        if size <= LARGEST[kind]:
            values[code] = -size if code >> 7 else size
    return values


def nearest(x, kind):
    """Round to the nearest number, to the even code when two are as near: by looking at all of them."""
    table = numbers(kind)
    distance = (x.double()[:, None] - table).abs().nan_to_num(nan=math.inf)
    odd = torch.arange(256) % 2
    best = distance.min(1, keepdim=True).values
    return table[torch.where(distance == best, odd, 2).argmin(1)]


@pytest.mark.parametrize("kind", [E4M3, E5M2], ids=str)
def test_codes_are_the_nearest_numbers(kind):
    torch.manual_seed(0)
    x = torch.randn(2000) * 2.0 ** torch.randint(-24, 1, (2000,))
    x[:256] = numbers(kind).nan_to_num(0).float() / LARGEST[kind]  # numbers of the format itself
    x[256:511] = (numbers(kind).nan_to_num(0).unfold(0, 2, 1).mean(1) / LARGEST[kind]).float()  # and midway between two: ties
    x[-1] = 1.0  # a scale that is a number of the format, so that the ties stay ties
    x.clamp_(-1, 1)
    codes, scale = encode(x, kind)
    assert scale == LARGEST[kind]
    assert torch.equal(codes.double(), nearest(x * scale, kind))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("kind", [E4M3, E5M2], ids=str)
def test_widening_is_exact(kind, dtype):
    codes = torch.arange(256, dtype=torch.uint8).view(kind)[~numbers(kind).isnan()]
    assert torch.equal(widened(codes.clone(), dtype).double(), numbers(kind)[~numbers(kind).isnan()])


@pytest.mark.parametrize("kind", [E4M3, E5M2], ids=str)
def test_the_largest_number_becomes_the_largest_code_and_nothing_overflows(kind):
    torch.manual_seed(0)
    for amax in torch.cat([torch.rand(500), torch.rand(500) * 2.0 ** torch.randint(-38, 60, (500,))]).clamp_min(1e-12).tolist():
        codes = encode(torch.tensor([amax, -amax, amax / 2]), kind).codes.double()
        assert codes[:2].tolist() == [LARGEST[kind], -LARGEST[kind]]


@pytest.mark.parametrize("kind", [E4M3, E5M2], ids=str)
def test_nothing_and_next_to_nothing(kind):
    zeros, scale = encode(torch.zeros(3, 5), kind)
    assert math.isfinite(scale) and not zeros.double().any()
    denormal, scale = encode(torch.tensor([1e-40, 0.0]), kind)
    assert scale == scale_for(0.0, kind) == torch.tensor(LARGEST[kind] / SMALLEST_AMAX).item()
    assert not denormal.double().any()
    assert encode(torch.tensor([SMALLEST_AMAX]), kind).codes.double().item() == LARGEST[kind]
    assert encode(torch.empty(0, 4), kind).codes.shape == (0, 4)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_what_is_not_finite_has_no_scale(bad, dtype):
    x = torch.ones(70_000, dtype=dtype)
    x[69_999] = bad
    assert not math.isfinite(largest(x))
    assert math.isnan(encode(x, E4M3).scale)


def test_underflow_starts_below_half_the_smallest_code():
    smallest = 2.0**-9 / 448  # of E4M3, beside a largest number of 1
    x = torch.tensor([1.0, smallest, smallest * 0.51, smallest * 0.49])
    assert encode(x, E4M3).codes.double().tolist() == [448.0, 2.0**-9, 2.0**-9, 0.0]
