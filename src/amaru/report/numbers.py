"""Numbers as people read them: counts, sizes, shares."""

from collections.abc import Callable

NONE = "\N{EN DASH}"


def count(number: float) -> str:
    """`count(8_101_000_000) -> '8.10 B'`, `count(4096) -> '4,096'`"""
    for unit, name in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if abs(number) >= unit:
            return f"{number / unit:.2f} {name}"
    return f"{number:,.0f}"


def size(number_of_bytes: float) -> str:
    """`size(24_641_536) -> '23.5 MiB'`"""
    unit, name = size_unit(number_of_bytes)
    return f"{number_of_bytes / unit:.{1 if unit > 1 else 0}f} {name}"


def size_unit(number_of_bytes: float) -> tuple[int, str]:
    """The unit to write a size in: `size_unit(24_641_536) -> (1048576, 'MiB')`"""
    names = ("B", "KiB", "MiB", "GiB", "TiB")
    return max((1024**power, name) for power, name in enumerate(names) if not power or abs(number_of_bytes) >= 1024**power)


def percent(share: float) -> str:
    """`percent(0.4123) -> '41.2 %'`"""
    return f"{100 * share:.1f} %"


def duration(seconds: float | None) -> str:
    """`duration(0.01308) -> '13.1 ms'`, `duration(754) -> '12.6 min'`; a dash where it is not known."""
    if seconds is None:
        return NONE
    for unit, name in ((3600, "h"), (60, "min"), (1, "s"), (1e-3, "ms")):
        if seconds >= unit:
            return f"{seconds / unit:.1f} {name}"
    return f"{seconds * 1e6:.1f} µs"


def decimals(digits: int) -> Callable[[float], str]:
    """`decimals(3)(2.30419) -> '2.304'`"""
    return lambda number: f"{number:,.{digits}f}"


def plain(number: float) -> str:
    """Whole numbers with separators, others with four significant digits."""
    return f"{number:,}" if isinstance(number, int) else f"{number:,.4g}"
