"""The write on a CUDA GPU: a row for each token (triton/paged_attention.py). Pages are not checked: that would wait for the GPU."""

import torch
from torch import Tensor

from amaru.ops.native import short
from amaru.ops.triton import kernels, launch, power_of_two

BYTES = torch.float8_e4m3fn  # copied as they are


def refuses(x: Tensor, pool: Tensor, pages: Tensor, owners: Tensor, positions: Tensor) -> str | None:
    if not x.is_cuda or x.dtype is not pool.dtype:
        return f"copies on CUDA within one dtype, got {short(x.dtype)} for {short(pool.dtype)} on {x.device.type}"
    if x.shape[1:] != pool.shape[2:] or not pool.is_contiguous():
        return "needs rows of a contiguous pool's shape"
    return "records no gradients" if torch.is_grad_enabled() and x.requires_grad else None


def page_write(x: Tensor, pool: Tensor, pages: Tensor, owners: Tensor, positions: Tensor) -> None:
    (_, heads, channels), page = x.shape, pool.shape[1]
    x = x if x.stride(2) == 1 and x.stride(1) == channels else x.contiguous()
    if x.dtype is BYTES:
        x, pool = x.view(torch.uint8), pool.view(torch.uint8)
    given = x, pool, pages.contiguous(), owners, positions, x.stride(0), pages.shape[1]
    sizes = {"PAGE": page, "COLUMNS": heads * channels, "COLUMN_BLOCK": power_of_two(heads * channels)}
    launch(kernels("paged_attention").page_write, (len(x),), *given, **sizes)
