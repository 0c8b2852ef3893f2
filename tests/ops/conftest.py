"""Tests of the compiled kernels need a compiler; where there is none they are skipped, with what `amaru env` says too."""

import pytest

from amaru.ops.native import library


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = library.lacks()
    for item in items:
        if reason and "native" in item.name:
            item.add_marker(pytest.mark.skip(reason=f"native kernels: {reason}"))
