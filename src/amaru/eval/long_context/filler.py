"""Text that says nothing of interest: plain sentences, no two paragraphs alike, to hide things in; and words that nobody knows."""

from collections.abc import Sequence
from random import Random

PLACES = (
    *("the harbour", "the old mill", "the market square", "the railway station"),
    *("the north wing", "the orchard", "the quarry", "the reading room"),
)
PEOPLE = (
    *("a carpenter", "two students", "the gardener", "a retired teacher"),
    *("some visitors", "the night watch", "an engineer", "a young couple"),
)
ACTIONS = (
    *("waited for the rain to stop", "talked about the weather", "carried boxes up the stairs", "looked at the clock"),
    *("drank tea from a flask", "counted the windows", "painted a fence", "repaired a bicycle"),
    *("wrote a long letter", "listened to the radio", "folded the newspaper"),
)
TIMES = (
    *("early in the morning", "shortly before noon", "in the late afternoon"),
    *("after supper", "on the last day of the month", "during the holidays"),
)
CITIES = ("Lisbon", "Oslo", "Quito", "Nairobi", "Hanoi", "Tbilisi", "Ottawa", "Perth", "Dakar", "Riga", "Lima", "Kyoto")
CONSONANTS, VOWELS = "bdfgklmnprstvz", "aeiou"


def sentence(draw: Random) -> str:
    """`"Shortly before noon a carpenter looked at the clock near the orchard."`"""
    when, who = draw.choice(TIMES), draw.choice(PEOPLE)
    return f"{when[0].upper()}{when[1:]} {who} {draw.choice(ACTIONS)} near {draw.choice(PLACES)}."


def hidden(draw: Random, units: int, needles: Sequence[tuple[float, str]]) -> str:
    """`units` sentences with needles between them, each behind its share (0 to 1) of all sentences."""
    lines: list[str] = [sentence(draw) for _ in range(units)]
    for depth, needle in sorted(needles, reverse=True):
        lines.insert(round(depth * units), needle)
    return " ".join(lines)


def number(draw: Random) -> str:
    """Seven digits."""
    return str(draw.randrange(10**6, 10**7))


def word(draw: Random) -> str:
    """`"tomiva"`"""
    return "".join(draw.choice(CONSONANTS) + draw.choice(VOWELS) for _ in range(3))


def distinct(draw: Random, count: int) -> list[str]:
    """So many made words, no two alike."""
    found: dict[str, None] = {}
    while len(found) < count:
        found[word(draw)] = None
    return list(found)
