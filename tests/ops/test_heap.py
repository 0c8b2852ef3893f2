"""Memory that is freed is used again without the system's help."""

import os
import platform
import subprocess
import sys

import pytest

PAGES = """
import resource, sys, torch
from amaru.ops.heap import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
faults = []
for _ in range(30):  # in the first few the heap still grows
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(50_000_000, dtype=torch.uint8)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(faults))
"""


HELD = """
import torch
from amaru.ops.heap import give_back_freed_memory, keep_freed_memory
def megabytes():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 >> 20
keep_freed_memory()
before = megabytes()
torch.ones(300_000_000, dtype=torch.uint8)
held = megabytes()
assert give_back_freed_memory()
print(held - before, megabytes() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_what_is_kept_can_be_given_back():
    held, left = map(int, subprocess.check_output([sys.executable, "-c", HELD], text=True).split())
    assert held > 250 and left < 50


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_a_large_tensor_lies_where_the_last_one_lay():
    small = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}  # a huge page is one fault
    faults = {
        way: int(subprocess.check_output([sys.executable, "-c", PAGES, way], text=True, env=small)) for way in ("keep", "give back")
    }
    assert faults["keep"] < 100 < 10_000 < faults["give back"]
