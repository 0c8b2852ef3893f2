"""What every test starts with."""

import os

import pytest
import torch

if not torch.cuda.is_available():  # kernels for a GPU run in Triton's interpreter, on the CPU; read when triton itself is first imported
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables are as wide as in a pipe, whatever the terminal that the suite was started from exports."""
    monkeypatch.delenv("COLUMNS", raising=False)
