"""What every test starts with."""

import pytest


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables are as wide as in a pipe, whatever the terminal that the suite was started from exports."""
    monkeypatch.delenv("COLUMNS", raising=False)
