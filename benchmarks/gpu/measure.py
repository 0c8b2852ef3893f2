"""Times on a device, what the device can do, and models of published shapes with random weights on it."""

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from amaru.axes import TensorSpec
from amaru.models.checkpoint import kept, place
from amaru.models.decoder import Decoder, DecoderConfig
from amaru.models.state import CACHES, DecoderState
from amaru.nn.linear import Linear, QuantisedLinear

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TINY = DEVICE.type == "cpu"  # only to see that a piece runs
FLUSH = 256 * 2**20  # bytes; more than any cache of the second level


@dataclass
class Ceilings:
    """Bytes and FLOPs per second of a large copy (read and written) and of a large product in bf16, on random numbers."""

    copy: float
    product: float


def wait() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def seconds(run: Callable[[], Any], repeats: int = 5, warm: int = 2) -> float:
    """The median of whole runs, from asking to done: what Python needs is part of it."""
    for _ in range(warm):
        run()
    taken = []
    for _ in range(repeats):
        wait()
        start = time.perf_counter()
        run()
        wait()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def device_seconds(run: Callable[[], Any], repeats: int = 20) -> float:
    """The median of the device's own time, by events, with the second-level cache full of other things before each."""
    if DEVICE.type == "cpu":
        return seconds(run, 1, 1)
    flush = torch.empty(FLUSH, dtype=torch.uint8, device=DEVICE)
    taken = []
    for number in range(repeats + 3):
        flush.zero_()
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        run()
        end.record()
        end.synchronize()
        if number >= 3:
            taken.append(begin.elapsed_time(end) / 1e3)
    return statistics.median(taken)


def ceilings() -> Ceilings:
    size, side = (2**20, 256) if TINY else (2**32, 8192)
    source = torch.empty(size, dtype=torch.uint8, device=DEVICE).random_()
    target = torch.empty_like(source)
    copied = 2 * size / device_seconds(lambda: target.copy_(source))
    a, b = (torch.randn(side, side, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    return Ceilings(copied, 2 * side**3 / device_seconds(lambda: a @ b, 10))


@torch.no_grad()
def drawn(config: DecoderConfig, dtype: torch.dtype = torch.bfloat16, fp8: bool = False) -> Decoder:
    """A decoder on the device whose numbers are of the size of trained ones; with `fp8` the projections of layers are codes."""
    with torch.device("meta"):
        decoder = Decoder(config)
    for name, (spec, axes) in config.tensors().items():
        shape = spec.layout.shape(axes)
        owner = decoder.get_submodule(name.rpartition(".")[0])
        if fp8 and isinstance(owner, Linear) and name.startswith("layers."):
            setattr(decoder.get_submodule(name.rpartition(".")[0].rpartition(".")[0]), name.split(".")[-2], coded(*shape))
        else:
            place(decoder, name, number_of(name, spec, shape, dtype))
    if config.tied:
        decoder.tie()
    return decoder.eval().requires_grad_(False)


def number_of(name: str, spec: TensorSpec, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    tensor = torch.empty(shape, dtype=kept(spec, dtype), device=DEVICE)
    last = name.rpartition(".")[2]
    if last == "A_log":
        return tensor.uniform_(1, 16).log_()
    if last == "dt_bias":
        return tensor.uniform_(-6, -2)
    if last == "D" or (last == "weight" and len(shape) == 1):
        return tensor.fill_(1)
    return tensor.normal_(0, 0.02 if len(shape) == 2 else 0.3)


def coded(rows: int, cols: int) -> QuantisedLinear:
    """A projection of FP8 codes with a scale for each row, drawn in parts, because a float32 copy of all would be large."""
    codes = torch.empty(rows, cols, dtype=torch.float8_e4m3fn, device=DEVICE)
    for part in codes.split(1024):
        part.copy_(torch.randn(part.shape, device=DEVICE) * 50)
    return QuantisedLinear(codes, torch.full([rows], 0.02 / 50, device=DEVICE), cols)


def filled(state: DecoderState) -> DecoderState:
    """Random numbers in a pool: zeros can be faster than real data."""
    for layer in state.layers:
        for name, held in layer.items():
            if held.is_floating_point() and held.element_size() > 1:
                for part in held.split(max(1, 2**28 // max(1, held[0].numel()))):
                    part.normal_(0, 1 if name in CACHES else 0.1)
    return state


def bytes_of(decoder: Decoder) -> int:
    """What a step of one token reads of the weights: all but the embedding, where the head is another tensor."""
    held = sum(each.nbytes for each in (*decoder.parameters(), *decoder.buffers()))
    return held if decoder.config.tied else held - decoder.embedding.weight.nbytes


def rounded(value: float, digits: int = 4) -> float:
    return 0.0 if value == 0 or not math.isfinite(value) else round(value, digits - 1 - math.floor(math.log10(abs(value))))
