"""Numbers as people read them."""

import pytest

from amaru.report.numbers import NONE, count, decimals, duration, percent, plain, size


@pytest.mark.parametrize(
    "text, expected",
    [
        (count(4096), "4,096"),
        (count(8_101_000_000), "8.10 B"),
        (count(999_999), "999,999"),
        (size(0), "0 B"),
        (size(1023), "1023 B"),
        (size(1024), "1.0 KiB"),
        (size(24_641_536), "23.5 MiB"),
        (size(5 * 2**50), "5120.0 TiB"),
        (percent(0.4123), "41.2 %"),
        (duration(0.01308), "13.1 ms"),
        (duration(7.54e-5), "75.4 µs"),
        (duration(59.94), "59.9 s"),
        (duration(754), "12.6 min"),
        (duration(None), NONE),
        (decimals(3)(2.30419), "2.304"),
        (plain(1204), "1,204"),
        (plain(0.123456), "0.1235"),
    ],
)
def test_numbers(text, expected):
    assert text == expected
