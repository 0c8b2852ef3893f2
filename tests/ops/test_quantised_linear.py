"""Products with weights of 8 and 4 bits against the same weights in float64."""

import pytest
import torch
from tests.ops.oracle import BF16, assert_close
from torch import Tensor

from amaru.errors import ConfigError
from amaru.ops.exactness import exact
from amaru.ops.quantised_linear import Kind, dequantised, native, pack, quantised_linear, unpack

SHAPES = [(1, 1), (5, 31), (19, 64), (37, 1100), (34, 512)]  # rows, cols
KINDS = ["int8", "fp8", "int4", "int4/64", "int4/128"]

each_kind = pytest.mark.parametrize("kind", KINDS)
each_that_is_served = pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=pytest.mark.skipif(bool(lacking), reason=str(lacking)))
        for kind in KINDS
        for lacking in [native.lacks_instructions(Kind[kind.split("/")[0].upper()])]
    ],
)


def drawn(kind: str, rows: int, cols: int) -> tuple[Tensor, Tensor, Tensor]:
    """Codes, scales, and the weight that they mean, in float64."""
    torch.manual_seed(0)
    if kind == "int8":
        codes, scales = torch.randint(-127, 128, (rows, cols), dtype=torch.int8), torch.rand(rows)
        return codes, scales, codes.double() * scales.double()[:, None]
    if kind == "fp8":
        codes, scales = e4m3()[torch.randint(0, 254, (rows, cols))], torch.rand(rows)
        return codes.to(torch.float8_e4m3fn), scales, codes * scales.double()[:, None]
    group = int(kind.split("/")[1]) if "/" in kind else 32
    numbers = torch.randint(0, 16, (rows, cols), dtype=torch.uint8)
    codes = pack(numbers)
    scales = torch.rand(rows, codes.shape[1] * 2 // group).bfloat16()
    return codes, scales, (numbers.double() - 8) * scales.double().repeat_interleave(group, dim=1)[:, :cols]


def e4m3() -> Tensor:
    """Every finite number of 4 bits of exponent and 3 of mantissa: 8 to 15 eighths of a power of two, or an eighth of the least one."""
    sizes = [mantissa * 2.0**-9 for mantissa in range(8)]
    sizes += [(8 + mantissa) * 2.0 ** (exponent - 10) for exponent in range(1, 16) for mantissa in range(8)]
    return torch.tensor([sign * size for size in sizes[:-1] for sign in (1, -1)], dtype=torch.float64)  # the last would be NaN


def test_packing_has_an_inverse_and_pads_with_zeros():
    torch.manual_seed(0)
    numbers = torch.randint(0, 16, (3, 1100), dtype=torch.uint8)
    assert torch.equal(unpack(pack(numbers), 1100), numbers)
    assert (unpack(pack(numbers), 1536)[:, 1100:] == 8).all()


@each_kind
@pytest.mark.parametrize("shape", SHAPES)
def test_a_weight_made_whole_is_rounded_once(shape, kind):
    codes, scales, weight = drawn(kind, *shape)
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        # In float32 the product of a code and a scale is itself rounded.
        assert torch.equal(dequantised.dequantise(codes, scales, shape[1], dtype), weight.float().to(dtype))


@pytest.mark.skipif(bool(native.lacks_instructions(Kind.FP8)), reason=str(native.lacks_instructions(Kind.FP8)))
def test_every_code_of_8_bit_floating_point_is_its_number():
    codes = e4m3().to(torch.float8_e4m3fn)
    assert torch.equal(codes.double(), e4m3())
    found = native.quantised_linear(torch.ones(1, 1).bfloat16(), codes[:, None].contiguous(), torch.ones(len(codes)))
    assert torch.equal(found[0].double(), e4m3())


@each_that_is_served
@pytest.mark.parametrize("tokens", [1, 2, 3, 5, 9, 50])
@pytest.mark.parametrize("shape", SHAPES)
def test_native_equals_float64(shape, kind, tokens):
    codes, scales, weight = drawn(kind, *shape)
    x, bias = torch.randn(tokens, shape[1]).bfloat16(), torch.randn(shape[0]).bfloat16()
    found = native.quantised_linear(x, codes, scales, bias)
    assert_close([found], [x.double() @ weight.T + bias.double()], BF16)


@each_that_is_served
def test_a_native_row_depends_on_neither_neighbours_nor_threads(kind):
    codes, scales, _ = drawn(kind, 37, 1100)
    wide = torch.full((50, 1200), torch.nan, dtype=torch.bfloat16)
    wide[:, 9:1109] = torch.randn(50, 1100)
    x = wide[:, 9:1109]
    with exact():
        together = quantised_linear(x, codes, scales)
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            assert all(torch.equal(quantised_linear(x[t : t + 1], codes, scales)[0], together[t]) for t in range(50))
            assert torch.equal(quantised_linear(x[:3], codes, scales), together[:3])
        torch.set_num_threads(1)


@each_that_is_served
def test_strange_tokens_stay_among_themselves_in_native(kind):
    codes, scales, weight = drawn(kind, 5, 70)
    x = torch.randn(6, 70).bfloat16()
    x[0], x[1, 3], x[2, 4], x[3] = 0, torch.nan, torch.inf, x[3] * 1e34
    x[4] = x[4] * 1e-38
    found = native.quantised_linear(x, codes, scales)
    assert (found[0] == 0).all() and found[1].isnan().all() and not found[2].isfinite().any()
    assert_close([found[3], found[5]], list(x[[3, 5]].double() @ weight.T), BF16)
    assert found[4].abs().max() < 1e-33


@each_kind
def test_any_dtype_and_many_rows_are_served(kind):
    codes, scales, weight = drawn(kind, 19, 64)
    for dtype, tolerance in ((torch.float64, 1e-6), (torch.bfloat16, BF16)):
        x = torch.randn(40, 64).to(dtype)
        assert_close([quantised_linear(x, codes, scales)], [x.double() @ weight.T], tolerance)


def test_what_does_not_fit_is_said():
    codes, scales, _ = drawn("int4", 5, 31)
    with pytest.raises(ConfigError, match=r"513 columns are int8 or float8_e4m3fn \[rows, 513\] with float32 scales"):
        quantised_linear(torch.zeros(1, 513).bfloat16(), codes, scales)
    with pytest.raises(ConfigError, match=r"1024 / 32, 64 or 128\]"):  # a scale for every 256 columns
        quantised_linear(torch.zeros(1, 1024).bfloat16(), codes.repeat(1, 2), scales[:, :4])
