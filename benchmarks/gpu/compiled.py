"""Every kernel compiled for a GPU that need not be here, at the shapes of Nemotron-H 8B: registers, spills and shared memory.

    python benchmarks/gpu/compiled.py [capability, default 90]

What does not compile, spills registers or wants too much shared memory is known before a GPU is at hand.
"""

import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import triton
from launches import LAUNCHES
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction


class NoGPU:
    """What triton asks of a driver before it compiles."""

    def __init__(self, capability: int) -> None:
        self.target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def compiled_by(run: Callable[[], None]) -> list[Any]:
    """The kernels that a function would start, compiled and not started."""
    found: list[Any] = []
    start = JITFunction.run

    def compile_only(self: Any, *arguments: Any, warmup: bool, **options: Any) -> None:
        found.append(start(self, *arguments, warmup=True, **options))

    JITFunction.run = compile_only
    try:
        run()
    finally:
        JITFunction.run = start
    return found


def resources(kernel: Any) -> dict[str, Any]:
    """What ptxas says of it."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernel.ptx"
        source.write_text(kernel.asm["ptx"], encoding="utf-8")
        target = re.search(r"\.target (sm_\w+)", kernel.asm["ptx"])
        assert target is not None
        command = [triton.knobs.nvidia.ptxas.path, "-v", f"--gpu-name={target[1]}", str(source), "-o", str(Path(folder) / "kernel.cubin")]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    numbers = {name: int(found[1]) for name, pattern in PATTERNS.items() if (found := re.search(pattern, said))}
    products = "wgmma" if "wgmma" in kernel.asm["ptx"] else "mma" if "mma.sync" in kernel.asm["ptx"] else "-"
    return numbers | {"shared": kernel.metadata.shared, "warps": kernel.metadata.num_warps, "products": products}


PATTERNS = {"registers": r"Used (\d+) registers", "spilled": r"(\d+) bytes spill stores"}


def main(capability: int) -> None:
    triton.runtime.driver.set_active(NoGPU(capability))
    torch.set_default_device("meta")
    for name, run in LAUNCHES.items():
        for kernel in compiled_by(run):
            print(f"{name:18} {kernel.name:18}", *(f"{key} {value}" for key, value in resources(kernel).items()))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 90)
