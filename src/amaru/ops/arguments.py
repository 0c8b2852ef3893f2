"""What every op asks of its arguments, said in a sentence when it is not so."""

from itertools import pairwise

import torch
from torch import Tensor

from amaru.errors import ConfigError


def expect_shape(name: str, tensor: Tensor, *shape: int) -> None:
    """Raise `ConfigError` unless `tensor` has this shape."""
    if tuple(tensor.shape) != shape:
        raise ConfigError(f"{name} must have shape {list(shape)}; got {list(tensor.shape)}.")


def sequence_lengths(cu_seqlens: Tensor, tokens: int) -> list[int]:
    """`sequence_lengths(tensor([0, 3, 5]), 5)` is `[3, 2]`.

    Raises `ConfigError` unless the boundaries are integers [S+1] that start at 0, never fall, and end at `tokens`.
    """
    if cu_seqlens.dim() != 1 or cu_seqlens.dtype not in (torch.int64, torch.int32):
        raise ConfigError(f"cu_seqlens must be a vector of integers; got {cu_seqlens.dtype} of shape {list(cu_seqlens.shape)}.")
    bounds: list[int] = cu_seqlens.tolist()
    lengths = [stop - start for start, stop in pairwise(bounds)]
    if not lengths or bounds[0] != 0 or bounds[-1] != tokens or min(lengths) < 0:
        raise ConfigError(f"cu_seqlens must rise from 0 to the {tokens} tokens given; got {bounds[:8]}{'...' if len(bounds) > 8 else ''}.")
    return lengths


def at_least_fp32(*dtypes: torch.dtype) -> torch.dtype:
    """The widest of these dtypes and float32, in which an op computes; fp64 stays fp64."""
    widest = torch.float32
    for dtype in dtypes:
        widest = torch.promote_types(widest, dtype)
    return widest
