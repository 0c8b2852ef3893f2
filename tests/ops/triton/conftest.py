"""Tests of kernels are left out where triton is not made, and nowhere else."""

from pathlib import Path

import pytest

from amaru.ops.triton import lacks


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if reason := lacks():  # triton is made for Linux alone, where the development tools bring it
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason=f"kernels in Triton: {reason}"))
