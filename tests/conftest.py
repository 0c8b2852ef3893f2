"""What every test starts with."""

import gc
import os
from collections.abc import Iterator

import psutil
import pytest
import torch

if not torch.cuda.is_available():  # kernels for a GPU run in Triton's interpreter, on the CPU; read when triton itself is first imported
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables are as wide as in a pipe, whatever the terminal that the suite was started from exports."""
    monkeypatch.delenv("COLUMNS", raising=False)


resident = [0]  # bytes of this process when garbage was last collected


@pytest.fixture(autouse=True)
def little_garbage() -> Iterator[None]:
    """An engine whose requests point back to it holds its pool, half a gigabyte, until garbage is collected, which Python does by counting
    objects and not bytes."""
    yield
    if psutil.Process().memory_info().rss > resident[0] + 2**30:
        gc.collect()
        resident[0] = psutil.Process().memory_info().rss
