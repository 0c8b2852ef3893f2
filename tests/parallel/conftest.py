"""Two processes that stay for all tests."""

import pytest
from tests.parallel.ranks import Ranks, kept


@pytest.fixture(scope="session")
def two() -> Ranks:
    return kept(2)
