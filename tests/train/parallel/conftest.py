"""Two processes that stay for all tests; four for those that need them."""

import pytest
from tests.parallel.ranks import Ranks, kept


@pytest.fixture(scope="session")
def two() -> Ranks:
    return kept(2)


@pytest.fixture(scope="session")
def four() -> Ranks:
    return kept(4)
