"""What the tests of the kernels share: where they run, and how near they come."""

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from tests.ops.oracle import BF16, assert_close
from torch import Tensor

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
FP32 = 64 * 2.0**-23  # exponentials of a GPU are within some roundings, and sums of products are taken in blocks
ROUNDED = BF16 if DEVICE.type == "cuda" else 4 * BF16  # the interpreter cuts digits off where a GPU rounds, each time


def there(given: Any) -> Any:
    """Copies on the device, in tuples and lists too."""
    if isinstance(given, Tensor):
        return given.clone().to(DEVICE)
    if hasattr(given, "_fields"):
        return type(given)(*map(there, given))
    return type(given)(map(there, given)) if isinstance(given, list | tuple) else given


def assert_near(found: Iterable[Tensor], expected: Iterable[Tensor], dtype: torch.dtype) -> None:
    """Everything finite, and as near as sums in float32 of numbers in this dtype are."""
    found = [each.cpu() for each in found]
    assert_close(found, list(expected), ROUNDED if dtype is torch.bfloat16 else FP32)


def every(cases: Iterable[Any], first: Any) -> list[Any]:
    """Parameters: one case always, the others with `make soak`, because the interpreter is slow. On a GPU ask for all: -m ''."""
    return [first, *(pytest.param(case, marks=pytest.mark.soak) for case in cases if case != first)]
