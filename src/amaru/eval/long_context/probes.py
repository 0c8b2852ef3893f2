"""What is asked of a long context: each probe makes a prompt from a generator, a depth, and an amount of filler.

passkey       a number in plain text, at the depth
needles       four numbers of one city among those of others, a quarter of the text apart, the first at the depth
key-value     the value of a key in one long JSON object, at the depth
variables     all names that a number was handed on to, through assignments spread over the text (RULER's variable tracking)
common-words  the ten words that a list holds ten times as often as the others (RULER's aggregation)
"""

import re
from collections.abc import Callable
from random import Random
from typing import NamedTuple
from uuid import UUID

from amaru.eval.long_context.filler import CITIES, distinct, hidden, number

NEEDLES, OTHERS, CHAIN, COMMON = 4, 4, 5, 10
OFTEN, SELDOM = 30, 3  # times that a common and another word stand in the list


class Made(NamedTuple):
    """A prompt, what a right answer holds, and how many tokens an answer may take."""

    prompt: str
    answers: tuple[str, ...]
    max_tokens: int


class Probe(NamedTuple):
    """`make(draw, units, depth)`; where depth means nothing a grid has one row."""

    make: Callable[[Random, int, float], Made]
    has_depth: bool = True


def passkey(draw: Random, units: int, depth: float) -> Made:
    key = number(draw)
    text = hidden(draw, units, [(depth, f"The pass key is {key}. Remember it: {key} is the pass key.")])
    prompt = f"A pass key is hidden in the following text.\n\n{text}\n\nWhat is the pass key? The pass key is"
    return Made(prompt, (key,), 16)


def needles(draw: Random, units: int, depth: float) -> Made:
    asked, *others = draw.sample(CITIES, 1 + OTHERS)
    numbers = tuple(number(draw) for _ in range(NEEDLES))
    placed = [((depth + index / NEEDLES) % 1, f"One of the numbers of {asked} is {each}.") for index, each in enumerate(numbers)]
    placed += [(draw.random(), f"One of the numbers of {other} is {number(draw)}.") for other in others]
    question = f"What are all {NEEDLES} numbers of {asked}? The numbers of {asked} are"
    return Made(f"Some numbers are hidden in the following text.\n\n{hidden(draw, units, placed)}\n\n{question}", numbers, 64)


def key_value(draw: Random, units: int, depth: float) -> Made:
    pairs = [(_uuid(draw), _uuid(draw)) for _ in range(units + 1)]
    key, value = pairs[round(depth * units)]
    lines = ",\n ".join(f'"{one}": "{other}"' for one, other in pairs)
    prompt = f"Extract the value of the specified key in the JSON object below.\n\n{{{lines}}}\n\nKey: \"{key}\"\nCorresponding value:"
    return Made(prompt, (value,), 64)


def variables(draw: Random, units: int, depth: float) -> Made:
    names = [f"VAR_{word.upper()}" for word in distinct(draw, 2 * CHAIN)]
    asked, decoy = number(draw), number(draw)
    placed = [*_chain(draw, names[:CHAIN], asked), *_chain(draw, names[CHAIN:], decoy)]
    question = f"Which variables have the value {asked}? The {CHAIN} variables with the value {asked} are"
    prompt = f"Assignments of variables are hidden in the following text.\n\n{hidden(draw, units, placed)}\n\n{question}"
    return Made(prompt, tuple(names[:CHAIN]), 96)


def _chain(draw: Random, names: list[str], value: str) -> list[tuple[float, str]]:
    """The first name gets the number, each later one what the name before it has, in this order."""
    places = sorted(draw.random() for _ in names)
    return [(place, f"{name} = {held}.") for place, name, held in zip(places, names, [value, *names], strict=False)]


def common_words(draw: Random, units: int, depth: float) -> Made:
    words = distinct(draw, COMMON + units)
    common, others = words[:COMMON], words[COMMON:]
    held = common * OFTEN + others * SELDOM
    draw.shuffle(held)
    question = f"What are the {COMMON} most common words in the list? They are"
    prompt = f"Below is a list of words, some of them much more common than others.\n\n{' '.join(held)}\n\n{question}"
    return Made(prompt, tuple(common), 96)


def share_found(text: str, answers: tuple[str, ...]) -> float:
    """Of the answers, how many the text holds as whole words."""
    return sum(re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", text) is not None for answer in answers) / len(answers)


def _uuid(draw: Random) -> str:
    return str(UUID(int=draw.getrandbits(128), version=4))


PROBES: dict[str, Probe] = {
    "passkey": Probe(passkey),
    "needles": Probe(needles),
    "key-value": Probe(key_value),
    "variables": Probe(variables, has_depth=False),
    "common-words": Probe(common_words, has_depth=False),
}
