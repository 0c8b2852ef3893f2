"""Two processes that stay for all tests of this folder."""

from collections.abc import Iterator

import pytest
from tests.parallel.ranks import Ranks


@pytest.fixture(scope="session")
def two() -> Iterator[Ranks]:
    with Ranks(2) as ranks:
        yield ranks
