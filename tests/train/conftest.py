"""Fixtures of the training tests: a small model, and rows of text for it."""

import pytest
from tests.train.small import fresh_model, packed_rows

from amaru.data.packing import PackedRows
from amaru.models.decoder import Decoder


@pytest.fixture(scope="session")
def rows() -> PackedRows:
    return packed_rows()


@pytest.fixture
def model() -> Decoder:
    return fresh_model()
