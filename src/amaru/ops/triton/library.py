"""Load the kernels on machines that have triton, start them on the device of their tensors, and tell them where sequences lie."""

import functools
import importlib
import importlib.util
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from amaru.ops.native import short

SERVED = (torch.float32, torch.bfloat16)


@functools.cache
def lacks() -> str | None:
    """Why this machine has no kernels, or None if it has."""
    return None if importlib.util.find_spec("triton") else "needs triton: pip install 'amaru[gpu]'"


def refusal(*tensors: Tensor | None) -> str | None:
    """Why the kernels do not serve these tensors, or None if they do."""
    for tensor in tensors:
        if tensor is not None and not tensor.is_cuda:
            return f"needs CUDA tensors, got device {tensor.device.type}"
        if tensor is not None and tensor.dtype not in SERVED:
            return f"computes in float32 or bfloat16 only, got {short(tensor.dtype)}"
    return None


@functools.cache
def kernels(name: str) -> ModuleType:
    """`kernels("ssd").forward`: a module of this package, which imports triton."""
    return importlib.import_module(f"amaru.ops.triton.{name}")


def launch(kernel: Any, grid: Sequence[int], *arguments: Any, **options: Any) -> None:
    """Start a kernel where its first tensor lies; a grid with nothing in it starts nothing."""
    first = next(argument for argument in arguments if isinstance(argument, Tensor))
    where: AbstractContextManager[Any] = torch.cuda.device(first.device) if first.is_cuda else nullcontext()
    if 0 not in grid:
        with where:
            kernel[tuple(grid)](*arguments, **options)


def operands(dtype: torch.dtype) -> dict[str, Any]:
    """`launch(..., **operands(x.dtype))`: the dtype that operands of products are rounded to, and the one they are multiplied in.

    Matrix units take bfloat16 as it is. Triton's interpreter cannot, so there the rounded numbers are multiplied in float32.
    """
    language, runtime = importlib.import_module("triton.language"), importlib.import_module("triton").knobs.runtime
    rounded = language.bfloat16 if dtype is torch.bfloat16 else language.float32
    return {"ROUNDED": rounded, "MULTIPLIED": language.float32 if runtime.interpret else rounded}


def power_of_two(count: int, least: int = 1) -> int:
    """The smallest that is at least `count` and `least`: blocks of kernels have such sizes."""
    return max(least, 1 << (count - 1).bit_length())


def boundaries(cu_seqlens: Tensor, device: torch.device) -> Tensor:
    """[S + 1] int64 on the device. Where every sequence has one token nothing is copied, so that a CUDA graph may hold it."""
    return torch.arange(len(cu_seqlens), device=device) if one_each(cu_seqlens) else _held(tuple(cu_seqlens.tolist()), device)


def one_each(cu_seqlens: Tensor | None) -> bool:
    """Whether every sequence has one token, as None says too."""
    return cu_seqlens is None or cu_seqlens.tolist() == list(range(len(cu_seqlens)))


def blocks(cu_seqlens: Tensor, size: int, device: torch.device) -> Tensor:
    """[n, 3] int64 on the device: sequence, first token and end of pieces of at most `size` tokens, none of which spans two sequences.

    A sequence without tokens has one piece without tokens.
    """
    if one_each(cu_seqlens):
        first = torch.arange(len(cu_seqlens) - 1, device=device)
        return torch.stack([first, first, first + 1], dim=1)
    return _blocks(tuple(cu_seqlens.tolist()), size, device)


# Every layer asks for the same. What is first asked for while a model is evaluated may be kept for a backward pass later.


@functools.lru_cache(maxsize=256)
@torch.inference_mode(False)
def _held(bounds: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(bounds, dtype=torch.int64, device=device)


@functools.lru_cache(maxsize=256)
@torch.inference_mode(False)
def _blocks(bounds: tuple[int, ...], size: int, device: torch.device) -> Tensor:
    pieces = [
        (sequence, first, min(first + size, stop))
        for sequence, (start, stop) in enumerate(pairwise(bounds))
        for first in range(start, max(stop, start + 1), size)
    ]
    return torch.tensor(pieces, dtype=torch.int64, device=device).view(-1, 3)
