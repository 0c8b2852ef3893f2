"""The kernels alone: against their references, the times of their launches, the scan beside its form in torch, products of few rows."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial

import torch
from launches import LAUNCHES
from measure import DEVICE, TINY, Ceilings, device_seconds
from piece import Lacking, Row, row
from torch import Tensor

from amaru.ops.linear import linear
from amaru.ops.quantised_linear import Encoding, Kind, quantised_linear
from amaru.ops.ssd import chunked
from amaru.ops.ssd import triton as ssd_on_gpu
from amaru.precision.encode import encode


def smoke(limits: Ceilings) -> list[Row]:
    """All kernels against their references, on this GPU."""
    if TINY:
        raise Lacking("a CUDA GPU; without one the same tests run in `make test` and `make soak`")
    tests = ["tests/ops/triton", "tests/serve/test_captured.py"]
    command = [sys.executable, "-m", "pytest", "-q", "-n", "8", "-m", "", "--deselect", "tests/ops/triton/test_library.py", *tests]
    done = subprocess.run([*command, "-p", "no:cacheprovider"], capture_output=True, text=True)
    print(done.stdout[-6000:], done.stderr[-2000:])
    last = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr[-300:]
    return [row(f"kernels against references: {last}", float(done.returncode == 0), "all passed", float(done.returncode == 0), 1.0)]


def kernels(limits: Ceilings) -> list[Row]:
    """Each wrapper at the widths of Nemotron-H 8B, forward and backward together; where the time of a step goes."""
    if TINY:
        raise Lacking("a CUDA GPU")
    torch.set_default_device(DEVICE)
    return [row(f"{name}: all launches of benchmarks/gpu/launches.py", 1e6 * device_seconds(run), "us") for name, run in LAUNCHES.items()]


def scan(limits: Ceilings) -> list[Row]:
    """The scan's forward pass at the shape of the 8B model: ours beside the form in products of torch, and other sizes of its blocks."""
    tokens = 256 if TINY else 8192
    heads, channels, groups, state = (4, 16, 2, 16) if TINY else (128, 64, 8, 128)
    x = torch.randn(tokens, heads, channels, device=DEVICE, dtype=torch.bfloat16)
    B, C = (torch.randn(tokens, groups, state, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    dt, A, D = torch.rand(tokens, heads, device=DEVICE) * 0.1, -torch.rand(heads, device=DEVICE), torch.ones(heads, device=DEVICE)
    given, asked = (x, dt, A, B, C, D), {"cu_seqlens": torch.tensor([0, tokens]), "return_states": True}
    unfused = device_seconds(lambda: chunked.ssd(*given, **asked), 5)
    rows = [row(f"scan of {tokens} tokens by products in torch", 1e6 * unfused, "us")]
    if TINY:
        return rows
    best = float("inf")
    kept = ssd_on_gpu.CHUNK, ssd_on_gpu.WARPS, ssd_on_gpu.HELD
    for chunk, warps, held in ((64, 8, 8192), (64, 4, 8192), (32, 4, 8192), (32, 8, 8192), (64, 4, 4096), (64, 8, 4096), (128, 8, 8192)):
        ssd_on_gpu.CHUNK, ssd_on_gpu.WARPS, ssd_on_gpu.HELD = chunk, warps, held
        taken = device_seconds(lambda: ssd_on_gpu.ssd(*given, **asked))
        best = min(best, taken)
        rows.append(row(f"the same in one launch, chunk {chunk}, {warps} warps, {held} numbers of state", 1e6 * taken, "us"))
    ssd_on_gpu.CHUNK, ssd_on_gpu.WARPS, ssd_on_gpu.HELD = kept
    return [*rows, row("scan forward: times as fast as unfused", unfused / best, "x", unfused / best, 1.5)]


def products(limits: Ceilings) -> list[Row]:
    """What products of few rows reach: torch's of bf16 weights, whether a kernel of our own would pay, and ours of codes."""
    rows, (hidden, ffn, inner) = [], (64, 128, 128) if TINY else (4096, 21504, 18560)
    for out, width in ((inner, hidden), (ffn, hidden), (hidden, ffn)):
        weights = [torch.randn(out, width, device=DEVICE, dtype=torch.bfloat16) for _ in range(1 if TINY else 4)]
        in_codes = {kind: [encode(weight, Encoding(kind)) for weight in weights] for kind in Kind}
        for count in (1, 8, 64):
            x = torch.randn(count, width, device=DEVICE, dtype=torch.bfloat16)
            taken = device_seconds(partial(_each, linear, x, [(weight,) for weight in weights])) / len(weights)
            rows.append(row(f"{count} x [{width}, {out}]", 1e6 * taken, "us", weights[0].nbytes / taken / limits.copy))
            for kind, held in in_codes.items():
                taken = device_seconds(partial(_each, quantised_linear, x, held)) / len(held)
                read = sum(tensor.nbytes for tensor in held[0])
                rows.append(row(f"{count} x [{width}, {out}] in {Encoding(kind)}", 1e6 * taken, "us", read / taken / limits.copy))
    return rows


def _each(product: Callable[..., Tensor], x: Tensor, weights: Sequence[tuple[Tensor, ...]]) -> None:
    for weight in weights:
        product(x, *weight)
