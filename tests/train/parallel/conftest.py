"""Two processes that stay for all tests of this folder; four for those that need them."""

from collections.abc import Iterator

import pytest
from tests.parallel.ranks import Ranks


@pytest.fixture(scope="session")
def two() -> Iterator[Ranks]:
    with Ranks(2) as ranks:
        yield ranks


@pytest.fixture(scope="session")
def four() -> Iterator[Ranks]:
    with Ranks(4) as ranks:
        yield ranks
