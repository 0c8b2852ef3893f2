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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_a_large_tensor_lies_where_the_last_one_lay():
    small = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}  # a huge page is one fault
    faults = {
        way: int(subprocess.check_output([sys.executable, "-c", PAGES, way], text=True, env=small)) for way in ("keep", "give back")
    }
    assert faults["keep"] < 100 < 10_000 < faults["give back"]
