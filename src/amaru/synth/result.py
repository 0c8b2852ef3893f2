"""The result at the end of a worked answer, and whether two are the same."""

import re
from fractions import Fraction

MARKS = (re.compile(r"\\boxed\{((?:[^{}]|\{[^{}]*\})*)\}"), re.compile(r"####\s*(.+)"))
NUMBER = re.compile(r"-?\$?\d[\d,]*(?:\.\d+)?(?:\s*/\s*\d+)?")
HALF = re.compile(r"\\[dt]?frac\{(-?\d+)\}\{(\d+)\}")


def result_in(text: str) -> str | None:
    """`result_in("so it is \\\\boxed{1,018}") == "1,018"`: what is boxed or stands behind ####, the last of them, else the last number."""
    for mark in MARKS:
        if found := mark.findall(text):
            return found[-1].strip()
    numbers = NUMBER.findall(text)
    return numbers[-1] if numbers else None


def same_result(found: str | None, expected: str) -> bool:
    """`same_result("0.50", "1/2")`: equal as numbers where both are numbers, else as texts but for case and blanks."""
    if found is None:
        return False
    wanted = result_in(expected) if "####" in expected or "\\boxed" in expected else expected
    one, other = _number(found), _number(wanted or expected)
    return one == other if one is not None and other is not None else _plain(found) == _plain(wanted or expected)


def _number(text: str) -> Fraction | None:
    bare = re.sub(r"[\s,$%]|\\[%$]", "", HALF.sub(r"\1/\2", text)).rstrip(".")
    try:
        return Fraction(bare)
    except (ValueError, ZeroDivisionError):
        return None


def _plain(text: str) -> str:
    return " ".join(text.casefold().strip(" .$").split())
