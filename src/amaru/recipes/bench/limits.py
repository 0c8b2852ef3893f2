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
    memory = psutil.virtual_memory().total
    return Device(name="this machine", memory=memory, bandwidth=read_rate(min(READ, memory // 4)), flops=flops, source="measured")


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
