"""The kernels run where they are meant to, on a CUDA GPU; where there is none, in Triton's interpreter, which runs them on the CPU."""

import os
from pathlib import Path

import pytest
import torch

from amaru.ops.triton import lacks

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel's module is imported


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if reason := lacks():  # triton is made for Linux alone, where the development tools bring it
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason=f"kernels in Triton: {reason}"))
