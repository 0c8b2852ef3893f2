"""What the processes of a tensor group tell each other, each with its gradient.

A region between two of these is computed in parts: every process has all of its input, a part of its weights, and a term of
its output. `copied` and `summed` bound it where the stream is whole on every process; `gathered` and `scattered` where
each process keeps a slice of the tokens (sequence parallelism), which moves as many bytes and divides the norms too.
"""

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

# torch 2.13 gave these their names; the older ones warn since.
all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


class Group(NamedTuple):
    """`Group(dist.group.WORLD, rank=0, size=2)`: the processes that share one model, and which of them this one is."""

    processes: Any
    rank: int
    size: int

    @classmethod
    def of(cls, processes: Any) -> "Group":
        return cls(processes, dist.get_rank(processes), dist.get_world_size(processes))


def copied(x: Tensor, group: Group) -> Tensor:
    """x itself, where a divided region begins; its gradient is the sum of what every process makes of it."""
    return _Copied.apply(x, group) if x.requires_grad else x  # type: ignore[no-any-return]


def summed(x: Tensor, group: Group) -> Tensor:
    """The sum of every process's term, where the region ends; the gradient goes to each of them."""
    return _Summed.apply(x, group)  # type: ignore[no-any-return]


def gathered(x: Tensor, group: Group, tokens: int) -> Tensor:
    """[tokens, ...] of everyone's slice of the tokens, where a divided region begins."""
    return _Gathered.apply(x, group, tokens)  # type: ignore[no-any-return]


def scattered(x: Tensor, group: Group) -> Tensor:
    """The sum of every process's term [tokens, ...], of which each keeps its slice [ceil(tokens / size), ...], zeros behind the last."""
    return _Scattered.apply(x, group)  # type: ignore[no-any-return]


def joined(x: Tensor, group: Group, width: int, whole: int) -> Tensor:
    """[T, whole] of everyone's columns [T, at most width]; every process goes on alike, so each gets its own columns' gradient."""
    return _Joined.apply(x, group, width, whole)  # type: ignore[no-any-return]


def sum_in_place(x: Tensor, group: Group) -> Tensor:
    dist.all_reduce(x, group=group.processes)
    return x


def _sum(x: Tensor, group: Group) -> Tensor:
    return sum_in_place(x.contiguous().clone(), group)


def _gather(x: Tensor, group: Group, rows: int) -> Tensor:
    out = x.new_empty(group.size * len(x), *x.shape[1:])
    all_gather(out, x.contiguous(), group=group.processes)
    return out if rows == len(out) else out[:rows].clone()  # no view: FSDP2 puts its hooks on what a module returns


def _scatter(x: Tensor, group: Group) -> Tensor:
    each = -(-len(x) // group.size)
    padded = x.new_zeros(group.size * each, *x.shape[1:])
    padded[: len(x)] = x
    out = x.new_empty(each, *x.shape[1:])
    reduce_scatter(out, padded, group=group.processes)
    return out


class _Copied(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return _sum(grad, ctx.group), None


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        return _sum(x, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return grad, None


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group, tokens: int) -> Tensor:
        ctx.group = group
        return _gather(x, group, tokens)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return _scatter(grad, ctx.group), None, None


class _Scattered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        ctx.group, ctx.tokens = group, len(x)
        return _scatter(x, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return _gather(grad, ctx.group, ctx.tokens), None


class _Joined(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group, width: int, whole: int) -> Tensor:
        ctx.columns = slice(group.rank * width, group.rank * width + x.shape[-1])
        padded = torch.nn.functional.pad(x, (0, width - x.shape[-1]))
        parts = _gather(padded, group, group.size * len(x)).unflatten(0, (group.size, len(x)))
        return parts.transpose(0, 1).flatten(1)[:, :whole]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return grad[:, ctx.columns].contiguous(), None, None, None


def tell(words: bytes | None, group: Group) -> None:
    """Send bytes from the first process to all others, who wait in `told`; None says that nothing more will come."""
    dist.broadcast(torch.tensor([-1 if words is None else len(words)]), 0, group=group.processes)
    if words:
        dist.broadcast(torch.frombuffer(bytearray(words), dtype=torch.uint8), 0, group=group.processes)


def told(group: Group) -> bytes | None:
    """What the first process tells."""
    length = torch.empty(1, dtype=torch.int64)
    dist.broadcast(length, 0, group=group.processes)
    words = torch.empty(max(0, int(length)), dtype=torch.uint8)
    if len(words):
        dist.broadcast(words, 0, group=group.processes)
    return None if length < 0 else words.numpy().tobytes()
