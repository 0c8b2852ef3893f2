"""Batch-invariant arithmetic, on demand: a sequence's numbers have the same bits whatever else is computed beside it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_EXACT = ContextVar("exact", default=os.environ.get("AMARU_EXACT", "0") != "0")


def is_exact() -> bool:
    """Whether sums must be taken in an order that does not depend on the batch: inside `exact()`, or everywhere with AMARU_EXACT=1."""
    return _EXACT.get()


@contextmanager
def exact(on: bool = True) -> Iterator[None]:
    """`with exact(): engine.step()`: of this thread or task alone."""
    token = _EXACT.set(on)
    try:
        yield
    finally:
        _EXACT.reset(token)


def unless_exact(*args: Any, **kwargs: Any) -> str | None:
    """The `refuses` of a backend whose order of sums depends on what is computed together."""
    return "sums in an order that depends on the batch, which exact() rules out" if is_exact() else None
