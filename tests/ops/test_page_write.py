"""Writing to pages: the kernel against torch's indexing, and places that are nowhere."""

import pytest
import torch
from torch import Tensor

from amaru.errors import ConfigError
from amaru.ops.page_write import eager, native, page_write

BACKENDS = {"eager": eager.page_write, "native": native.page_write}


def drawn(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Five tokens of three sequences, whose rows are slices of wider ones; pages of 4 places in a pool of 7."""
    x = torch.randn(5, 3, 6, generator=torch.Generator().manual_seed(0)).to(dtype)[:, :2]
    pages = torch.tensor([[5, 0], [2, 6], [3, 1]])
    return x, torch.zeros(7, 4, 2, 6, dtype=dtype), pages, torch.tensor([0, 0, 1, 2, 2]), torch.tensor([3, 4, 7, 0, 1])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_go_where_the_table_says_and_nowhere_else_in_native_and_eager(backend, dtype):
    x, pool, pages, owners, positions = drawn(dtype)
    BACKENDS[backend](x, pool, pages, owners, positions)
    expected = torch.zeros_like(pool)
    for row, page, place in zip(x, (5, 0, 6, 3, 3), (3, 0, 3, 0, 1), strict=True):
        expected[page, place] = row
    assert torch.equal(pool, expected)


def test_a_pool_of_another_dtype_is_written_too():
    x, pool, *where = drawn(torch.float32)
    page_write(x, narrow := pool.bfloat16(), *where)
    page_write(x, pool, *where)
    assert torch.equal(narrow, pool.bfloat16())


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_page_that_the_pool_does_not_have_is_refused_in_native_and_eager(backend):
    x, pool, pages, owners, positions = drawn(torch.float32)
    pages[2, 0] = 7
    with pytest.raises(ConfigError, match="none of the 7"):
        BACKENDS[backend](x, pool, pages, owners, positions)
    assert backend == "eager" or not pool.any()
