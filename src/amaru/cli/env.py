"""`amaru env`: what this machine offers, and which backend serves which operation, and why."""

import os
import platform
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table
from rich.text import Text

from amaru import __version__
from amaru.cli.output import JsonFlag, emit

HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_tile", "amx_bf16", "asimd", "bf16", "sve")


def command(json: JsonFlag = False) -> None:
    """Print what this machine offers: Python, torch, threads, CPU, memory, GPU, the versions of all dependencies,
    and which backend serves which operation, with the reason."""
    emit(describe(), json=json, people=show)


def describe() -> dict[str, Any]:
    """The facts as plain values; `ops` has one row per operation and backend."""
    import torch

    from amaru.ops import explain

    return {
        "amaru": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cpu": cpu(),
        "memory": {"total_bytes": psutil.virtual_memory().total, "available_bytes": psutil.virtual_memory().available},
        "huge_pages": {"kernel": kernel_setting(HUGE_PAGES), "asked": os.environ.get("THP_MEM_ALLOC_ENABLE") == "1"},
        "gpus": [gpu(index) for index in range(torch.cuda.device_count())],
        "dependencies": dependencies(),
        "ops": [row._asdict() for row in explain()],
    }


def cpu() -> dict[str, Any]:
    """Name, usable cores, and the instruction sets that decide how fast bf16 and int8 are."""
    facts = _proc_cpuinfo()
    present = set((facts.get("flags") or facts.get("Features") or "").split())
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    name = facts.get("model name") or platform.processor() or platform.machine()
    return {"name": name, "cores": usable, "flags": [flag for flag in FLAGS if flag in present]}


def kernel_setting(path: Path) -> str | None:
    """The word in brackets, of a file such as "always [madvise] never"; None where there is no such file."""
    return path.read_text(encoding="utf-8").partition("[")[2].partition("]")[0] if path.exists() else None


def _proc_cpuinfo() -> dict[str, str]:
    path = Path("/proc/cpuinfo")
    if not path.exists():  # not Linux
        return {}
    first_core = path.read_text(encoding="utf-8").split("\n\n")[0]
    pairs = (line.partition(":") for line in first_core.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def gpu(index: int) -> dict[str, Any]:
    import torch

    facts = torch.cuda.get_device_properties(index)
    return {"name": facts.name, "memory_bytes": facts.total_memory, "capability": f"{facts.major}.{facts.minor}"}


def dependencies() -> dict[str, str | None]:
    """Installed versions of what amaru requires; None for one that is missing."""
    names = [line.split(";")[0] for line in requires("amaru") or [] if "extra ==" not in line]
    return {name: _installed(name) for name in sorted(_bare(name) for name in names)}


def _bare(requirement: str) -> str:
    """`torch>=2.11` -> `torch`"""
    end = next((index for index, letter in enumerate(requirement) if letter in " <>=!~[("), len(requirement))
    return requirement[:end]


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def show(facts: Mapping[str, Any], console: Console) -> None:
    cpu, memory = facts["cpu"], facts["memory"]
    lines = {
        "amaru": facts["amaru"],
        "python": f"{facts['python']}  ({sys.executable})",
        "platform": facts["platform"],
        "torch": f"{facts['torch']}, {facts['threads']} threads",
        "cpu": f"{cpu['name']}, {cpu['cores']} cores; {' '.join(cpu['flags']) or 'no known vector extensions'}",
        "memory": f"{memory['total_bytes'] / 2**30:.1f} GiB, {memory['available_bytes'] / 2**30:.1f} GiB available",
        "pages": pages_line(**facts["huge_pages"]),
        "gpu": "; ".join(map(gpu_line, facts["gpus"])) or "none",
        "with": ", ".join(f"{name} {version or 'MISSING'}" for name, version in facts["dependencies"].items()),
    }
    for name, value in lines.items():
        console.print(Text.assemble((f"{name:<10}", "bold"), value), soft_wrap=True)
    console.print()
    console.print(ops_table(facts["ops"]))


def pages_line(kernel: str | None, asked: bool) -> str:
    """Reading memory is half again as fast in huge pages (docs/performance.md)."""
    if kernel is None:
        return "this kernel says nothing of huge pages"
    if kernel == "never":
        return f"small: the kernel gives no huge pages ({HUGE_PAGES} says never)"
    if not asked and kernel == "madvise":
        return "small: huge pages are not asked for (THP_MEM_ALLOC_ENABLE is not 1)"
    return f"2 MB for large tensors (kernel: {kernel})"


def gpu_line(facts: Mapping[str, Any]) -> str:
    return f"{facts['name']}, {facts['memory_bytes'] / 2**30:.0f} GiB, compute capability {facts['capability']}"


def ops_table(rows: list[dict[str, str]]) -> Table:
    table = Table("op", "backend", "state", "reason", box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    colours = {"chosen": "green", "available": "default", "refused": "dim"}
    previous = None
    for row in rows:
        op = "" if row["op"] == previous else row["op"]
        table.add_row(op, row["backend"], row["state"], row["reason"], style=colours[row["state"]])
        previous = row["op"]
    return table
