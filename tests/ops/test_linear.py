"""The product: the kernel against float64, and the promise that a row does not depend on its neighbours."""

import pytest
import torch
from tests.ops.oracle import BF16, FP32, assert_close
from torch.nn.functional import linear as product

from amaru.errors import ConfigError
from amaru.ops.exactness import exact
from amaru.ops.linear import eager, linear, native

SHAPES = [(1, 1), (3, 5), (17, 31), (64, 64), (37, 70), (130, 257)]  # rows, cols
TOKENS = [1, 2, 3, 4, 7, 8, 9, 13, 48, 49, 101]
ROUNDED = {torch.float32: FP32, torch.bfloat16: BF16}
BACKENDS = {"eager": eager.linear, "native": native.linear}


def drawn(tokens: int, rows: int, cols: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(tokens, cols).to(dtype), torch.randn(rows, cols).to(dtype), torch.randn(rows).to(dtype)


@pytest.mark.parametrize("dtype", ROUNDED)
@pytest.mark.parametrize("shape", SHAPES)
def test_native_equals_float64_for_any_number_of_tokens(shape, dtype):
    for tokens in TOKENS:
        x, weight, bias = drawn(tokens, *shape, dtype)
        for each in (None, bias):
            expected = product(x.double(), weight.double(), None if each is None else each.double())
            assert_close([native.linear(x, weight, each)], [expected], ROUNDED[dtype])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", ROUNDED)
@pytest.mark.parametrize("shape", [(37, 70), (130, 257)])
def test_an_exact_row_does_not_depend_on_its_neighbours_in_native_and_eager(backend, shape, dtype):
    x, weight, bias = drawn(101, *shape, dtype)
    with exact():
        alone = torch.cat([BACKENDS[backend](row, weight, bias) for row in x.split(1)])
        for tokens in TOKENS:
            assert torch.equal(BACKENDS[backend](x[:tokens], weight, bias), alone[:tokens])


def test_native_is_the_same_for_any_number_of_threads():
    x, weight, bias = drawn(13, 130, 170, torch.bfloat16)
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(native.linear(x, weight, bias))
    torch.set_num_threads(1)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_native_reads_nothing_beside_its_rows():
    """x is a slice of wider rows of NaN, and NaN lie behind the weight."""
    x, weight, bias = drawn(5, 19, 33, torch.bfloat16)
    wide = torch.full((5, 50), torch.nan, dtype=x.dtype)
    wide[:, 7:40] = x
    longer = torch.full((25, 33), torch.nan, dtype=x.dtype)
    longer[:19] = weight
    assert torch.equal(native.linear(wide[:, 7:40], longer[:19], bias), native.linear(x, weight, bias))


def test_a_nan_in_one_row_stays_there_in_native():
    x, weight, bias = drawn(9, 19, 33, torch.float32)
    clean = native.linear(x, weight, bias)
    x[4, 32] = torch.nan
    found = native.linear(x, weight, bias)
    assert found[4].isnan().all() and torch.equal(found[[0, 3, 5, 8]], clean[[0, 3, 5, 8]])


@torch.no_grad()
def test_who_serves_whom():
    x, weight, bias = drawn(101, 8, 16, torch.bfloat16)
    assert "rows of x, got 101" in str(native.refuses(x, weight, bias))
    assert native.refuses(x[:1], weight, bias) is None
    with exact():
        assert native.refuses(x, weight, bias) is None
    with torch.enable_grad():
        assert native.refuses(x[:1], weight.clone().requires_grad_(), bias) == "records no gradients"
    assert "float64" in str(native.refuses(x.double(), weight.double(), None))


def test_gradients_and_leading_axes():
    x, weight, bias = (tensor.double().requires_grad_() for tensor in drawn(6, 5, 7, torch.float32))
    assert torch.autograd.gradcheck(lambda *t: linear(*t), (x.view(2, 3, 7), weight, bias))
    with exact(), torch.no_grad():
        assert linear(x.view(2, 3, 7), weight).shape == (2, 3, 5)
        assert linear(x.float()[0], weight.float()).shape == (5,)


def test_what_does_not_fit_is_said():
    x, weight, _ = drawn(2, 5, 7, torch.float32)
    with pytest.raises(ConfigError, match=r"got \[2, 6\], \[5, 7\] and None"):
        linear(x[:, :6], weight)
    with pytest.raises(ConfigError, match="one dtype"):
        linear(x.double(), weight)
