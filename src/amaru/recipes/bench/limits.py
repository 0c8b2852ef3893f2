"""What this machine can do: how fast it reads memory, and how fast it multiplies matrices."""

import itertools
import time
from collections.abc import Callable
from functools import partial

import psutil
import torch
from torch import Tensor

from amaru.models.devices import Device
from amaru.ops.native import kernel, lacks

READ = 4 * 2**30  # bytes; far beyond any cache
SIZE = 4096  # of the matrices


def best(work: Callable[[], object], repeats: int = 3) -> float:
    """Seconds of the fastest of a few runs, after one that is not counted."""
    work()
    return min(_seconds(work) for _ in range(repeats))


def read_rate(total: int = READ) -> float:
    """Bytes per second: the best of several ways to read `total` bytes once.

    Natively: pieces of 512 kB or a part for each thread, one after the other or four streams at once, with what comes next told to the
    processor or not; and a reduction and a product of torch's.
    """
    block = torch.empty(total // 4, dtype=torch.float32).fill_(1.0)
    ways: list[Callable[[], object]] = [block.sum, lambda: block.view(torch.bfloat16).view(-1, 8192) @ ones]
    ones = torch.ones(8192, dtype=torch.bfloat16)
    if lacks() is None:
        threads = torch.get_num_threads()
        patterns = itertools.product((1 << 19, -(-block.nbytes // threads)), (1, 4), (0, 1024, 4096))
        ways += [partial(_read, block, *pattern, threads) for pattern in patterns]
    return total / min(best(way, 2) for way in ways)


def _read(block: Tensor, piece: int, streams: int, ahead: int, threads: int) -> int:
    return kernel("read_memory", "ipiiii", returns=True)(block.nbytes, block.data_ptr(), piece, streams, ahead, threads)


def product_rate(dtype: torch.dtype, size: int = SIZE) -> float:
    """FLOP/s of the better of two large square products, one of them x wᵀ as in a model."""
    a, b = (torch.randn(size, size, dtype=dtype) for _ in range(2))
    return 2 * size**3 / min(best(lambda: a @ b), best(lambda: a @ b.T))


def this_machine() -> Device:
    """`roofline.decode(config, workload, Machine(count=1, device=this_machine()))`: bounds by what was measured just now."""
    flops = {"bf16": product_rate(torch.bfloat16), "fp32": product_rate(torch.float32)}
    return _device(read_rate(min(READ, psutil.virtual_memory().total // 4)), flops)


def _device(bandwidth: float, flops: dict[str, float]) -> Device:
    return Device(name="this machine", memory=psutil.virtual_memory().total, bandwidth=bandwidth, flops=flops, source="measured")


class Probe:
    """`Probe(torch.bfloat16)()`: this machine as it is at this moment, in a tenth of a second.

    A rate that moves between two levels within a minute bounds nothing that was measured in another minute; this one is read right
    before and after.
    """

    def __init__(self, dtype: torch.dtype, total: int = 2**29, size: int = 2048) -> None:
        self._block = torch.empty(total // 4, dtype=torch.float32).fill_(1.0)
        self._matrices = torch.randn(size, size, dtype=dtype), torch.randn(size, size, dtype=dtype)
        self._kind = "bf16" if dtype == torch.bfloat16 else "fp32"

    def __call__(self) -> Device:
        read, threads, (a, b) = self._block, torch.get_num_threads(), self._matrices
        halves = -(-read.nbytes // threads)
        patterns = ((1 << 19, 1, 0), (halves, 1, 1024), (halves, 4, 1024))
        ways = [read.sum] if lacks() else [partial(_read, read, *pattern, threads) for pattern in patterns]
        flops = 2 * len(a) ** 3 / best(lambda: a @ b, 2)
        return _device(read.nbytes / min(map(_seconds, ways)), {self._kind: flops})


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
