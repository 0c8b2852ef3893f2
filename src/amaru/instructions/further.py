"""Instructions in IFEval's form that IFEval does not have: exact counts, and how an answer begins and ends."""

import re
from collections.abc import Callable

from amaru.instructions.text import words


def exact_words(text: str, num_words: int) -> bool:
    return len(words(text)) == num_words


def exact_frequency(text: str, keyword: str, frequency: int) -> bool:
    """As a whole word."""
    return len(re.findall(rf"\b{re.escape(keyword)}\b", text, re.IGNORECASE)) == frequency


def first_word(text: str, first_word: str) -> bool:
    return [word.lower() for word in words(text)[:1]] == [first_word.lower()]


def last_word(text: str, last_word: str) -> bool:
    return [word.lower() for word in words(text)[-1:]] == [last_word.lower()]


def numbered_list(text: str, num_items: int) -> bool:
    """Lines that begin with 1, 2, 3 and so on, each with a full stop or a bracket, in this order and no others."""
    found = re.findall(r"^\s*(\d+)[.)]\s*\S", text, re.MULTILINE)
    return found == [str(number) for number in range(1, num_items + 1)]


FURTHER: dict[str, Callable[..., bool]] = {
    "length_constraints:exact_words": exact_words,
    "keywords:exact_frequency": exact_frequency,
    "startend:first_word": first_word,
    "startend:last_word": last_word,
    "detectable_format:numbered_list": numbered_list,
}
