"""Whether a worked answer comes to a known result."""

import re
from fractions import Fraction

MARKS = (re.compile(r"\\boxed\{((?:[^{}]|\{[^{}]*\})*)\}"), re.compile(r"####\s*(.+)"))
NUMBER = re.compile(r"-?\$?\d[\d,]*(?:\.\d+)?(?:\s*/\s*\d+)?")
NUMERAL = re.compile(r"[+-]?(?:\d+/\d+|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?)")  # 1e999999999 would fill the memory
FRACTION = re.compile(r"\\[dt]?frac\{(-?\d+)\}\{(\d+)\}")


def comes_to(text: str, expected: str) -> bool:
    """`comes_to("so she pays $1,018.", "1018")`: what the answer ends with is the same number, or else the same words.

    The end is what is boxed or stands behind ####, the last of them; without such a mark the last number where a number is expected, the
    last words where words are. Of the expected result too what is marked counts, so that answers of GSM8K may be given whole.
    """
    wanted = _marked(expected) or expected
    if (number := _number(wanted)) is not None:
        found = _marked(text) or next(iter(NUMBER.findall(text)[::-1]), "")
        return _number(found) == number
    if (marked := _marked(text)) is not None:
        return _plain(marked) == _plain(wanted)
    return re.search(rf"(?<![\w-]){re.escape(_plain(wanted))}\Z", _plain(text)) is not None


def _marked(text: str) -> str | None:
    return next((found[-1].strip() for mark in MARKS if (found := mark.findall(text))), None)


def _number(text: str) -> Fraction | None:
    bare = re.sub(r"[\s,$%]|\\[%$]", "", FRACTION.sub(r"\1/\2", text)).rstrip(".")
    try:
        return Fraction(bare) if NUMERAL.fullmatch(bare) else None
    except (ValueError, ZeroDivisionError):
        return None


def _plain(text: str) -> str:
    """Words, without how they are spaced and written and what stands around them."""
    return " ".join(text.casefold().split()).strip(" .!\"'*$")
