"""The write compiled for the CPU: a copy for each token (native/page_write.cpp)."""

import torch
from torch import Tensor

from amaru.errors import ConfigError
from amaru.ops.native import kernel, short


def refuses(x: Tensor, pool: Tensor, pages: Tensor, owners: Tensor, positions: Tensor) -> str | None:
    if not x.is_cpu or x.dtype is not pool.dtype:
        return f"copies on the CPU within one dtype, got {short(x.dtype)} for {short(pool.dtype)} on {x.device.type}"
    rows = x.stride(2) == 1 and x.stride(1) == x.shape[2]
    if x.shape[1:] != pool.shape[2:] or not (rows and pool.is_contiguous() and pages.is_contiguous()):
        return "needs contiguous rows of the pool's shape"
    if torch.is_grad_enabled() and x.requires_grad:
        return "records no gradients"
    return None


def page_write(x: Tensor, pool: Tensor, pages: Tensor, owners: Tensor, positions: Tensor) -> None:
    count, page, heads, channels = pool.shape
    size = x.itemsize
    wrong = kernel("page_write", "iiiiii" + "p" * 5, returns=True)(
        len(x),
        heads * channels * size,
        x.stride(0) * size,
        pages.shape[1],
        page,
        count,
        pages.data_ptr(),
        owners.data_ptr(),
        positions.data_ptr(),
        x.data_ptr(),
        pool.data_ptr(),
    )
    if wrong >= 0:
        raise ConfigError(f"A token at place {int(positions[wrong])} needs a page that is none of the {count} of the pool.")
