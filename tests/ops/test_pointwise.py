"""Functions of single numbers against torch in float64, and the same bits for a number wherever it stands."""

import pytest
import torch
import torch.nn.functional as F
from tests.ops.oracle import BF16, FP32, assert_close

from amaru.ops.exactness import exact
from amaru.ops.pointwise import sigmoid, silu, softplus

ORACLES = {sigmoid: torch.sigmoid, silu: F.silu, softplus: F.softplus}


@pytest.fixture(params=ORACLES, ids=lambda function: function.__name__)
def function(request):
    return request.param


@pytest.mark.parametrize("on", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_they_are_torchs(function, dtype, on):
    x = torch.cat([8 * torch.randn(1000, generator=torch.Generator().manual_seed(0)), torch.tensor([-200.0, -90, 0, 19.9, 20.1, 90, 200])])
    with exact(on):
        y = function(x.to(dtype))
    assert y.dtype == dtype
    assert_close([y], [ORACLES[function](x.to(dtype).double())], BF16 if dtype == torch.bfloat16 else FP32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("ours", [sigmoid, silu, softplus, torch.cos, torch.sin, torch.exp], ids=lambda function: function.__name__)
def test_in_exact_mode_a_number_has_the_same_bits_anywhere(ours, dtype):
    """cos and sin are what rotary angles ask torch for."""
    draw = torch.Generator().manual_seed(1)
    x = (8 * torch.randn(70_000, generator=draw)).to(dtype)
    with exact():
        whole = ours(x)
        parts = [ours(part.clone()) for part in x.split(_lengths(len(x), draw))]
        assert torch.equal(torch.cat(parts), whole)
        rows = x.view(700, 100)[:, 3:90]  # a slice, as of a wider projection
        assert torch.equal(ours(rows), whole.view(700, 100)[:, 3:90])


def _lengths(total: int, draw: torch.Generator) -> list[int]:
    lengths = torch.randint(1, 90, (total // 40,), generator=draw).tolist()
    while sum(lengths) > total:
        lengths.pop()
    return [*lengths, total - sum(lengths)] if sum(lengths) < total else lengths
