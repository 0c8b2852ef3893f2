"""Keys or values of new tokens go to the pages of their sequences."""

import torch
from torch import Tensor

from amaru.ops.backends import Backend, Op
from amaru.ops.native import lacks
from amaru.ops.page_write import eager, native, triton
from amaru.ops.triton import lacks as lacks_triton


def page_write(x: Tensor, pool: Tensor, pages: Tensor, owners: Tensor, positions: Tensor) -> None:
    """Write x [T, heads, channels] into `pool` [pages, page, heads, channels], cast to its dtype.

    >>> page_write(k, state["keys"], batch.pages["all"], batch.owners, batch.positions)

    pages [S, n] int64: place p of a sequence is row p % page of its page p // page. owners [T] int64: which of the S
    sequences a token belongs to; positions [T] int64: its place there.
    Raises `ConfigError` for a place whose page the pool does not have, `BackendError` if a forced backend refuses.
    """
    if PAGE_WRITE.lean and native.refuses(x, pool, pages, owners, positions) is None:
        native.page_write(x, pool, pages, owners, positions)
    else:
        PAGE_WRITE(x, pool, pages, owners, positions)


def _sample(dtype: torch.dtype) -> tuple[tuple, dict]:
    zero = torch.tensor([0])
    return (torch.zeros(1, 2, 4, dtype=dtype), torch.zeros(1, 4, 2, 4, dtype=dtype), torch.tensor([[0]]), zero, zero), {}


PAGE_WRITE = Op(
    "page_write",
    _sample,
    Backend("native", native.page_write, native.refuses, lacks),
    Backend("triton", triton.page_write, triton.refuses, lacks_triton),
    Backend("eager", eager.page_write),
)
