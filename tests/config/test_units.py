"""Sizes and counts as people write them."""

import pytest

from amaru.config.units import parse_bytes, parse_count, parse_share
from amaru.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("31.7GiB", round(31.7 * 2**30)),
        ("24GB", 24 * 10**9),
        ("512 MiB", 2**29),
        ("80g", 80 * 10**9),
        ("7", 7),
        ("1e3b", 1000),
        ("1.5 gib", 3 * 2**29),
    ],
)
def test_bytes(text, value):
    assert parse_bytes(text) == value


@pytest.mark.parametrize(
    ("text", "value"), [("2M", 2_000_000), ("1.5e6", 1_500_000), ("300k", 300_000), ("4.489B", 4_489_000_000), ("1_000", 1000)]
)
def test_counts(text, value):
    assert parse_count(text) == value


def test_shares():
    assert parse_share("60%", 1000) == 600
    assert parse_share("2GiB", 1000) is None


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (parse_bytes, "x"),
        (parse_bytes, "-1"),
        (parse_bytes, "0"),
        (parse_bytes, "GiB"),
        (parse_bytes, "1.2.3"),
        (parse_bytes, "12 parsecs"),
        (parse_bytes, "nan"),
        (parse_bytes, "1e999"),
        (parse_bytes, "9" * 400),
        (parse_count, "1e999"),
        (parse_count, "2GiB"),
        (parse_count, ""),
        (parse_share, "0%"),
        (parse_share, "130%"),
    ],
)
def test_anything_else_is_a_sentence(parse, text):
    with pytest.raises(ConfigError, match=r"%|write it as"):
        parse(text, 10) if parse is parse_share else parse(text)
