"""What this machine can do: how fast it reads memory, and how fast it multiplies matrices."""

import time
from collections.abc import Callable

import psutil
import torch

from amaru.models.devices import Device

READ = 4 * 2**30  # bytes; far beyond any cache
SIZE = 4096  # of the matrices


def best(work: Callable[[], object], repeats: int = 3) -> float:
    """Seconds of the fastest of a few runs, after one that is not counted."""
    work()
    return min(_seconds(work) for _ in range(repeats))


def read_rate(total: int = READ) -> float:
    """Bytes per second: the best of several ways to read `total` bytes once."""
    block = torch.empty(total // 4, dtype=torch.float32).fill_(1.0)
    as_bf16, as_bytes = block.view(torch.bfloat16), block.view(torch.int64)
    matrix, vector = block.view(-1, 4096), torch.ones(4096)
    ways = (block.sum, as_bytes.sum, lambda: matrix @ vector, lambda: as_bf16.view(-1, 8192) @ vector.bfloat16().repeat(2))
    return total / min(best(way, 2) for way in ways)


def product_rate(dtype: torch.dtype, size: int = SIZE) -> float:
    """FLOP/s of a large square product."""
    a, b = (torch.randn(size, size, dtype=dtype) for _ in range(2))
    return 2 * size**3 / best(lambda: a @ b)


def this_machine() -> Device:
    """`roofline.decode(config, workload, Machine(count=1, device=this_machine()))`: bounds by what was measured just now."""
    flops = {"bf16": product_rate(torch.bfloat16), "fp32": product_rate(torch.float32)}
    memory = psutil.virtual_memory().total
    return Device(name="this machine", memory=memory, bandwidth=read_rate(min(READ, memory // 4)), flops=flops, source="measured")


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
