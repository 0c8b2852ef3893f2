"""A world of requests whose answers a program can check, and a program that answers them, now and then wrongly.

    request = ask(seed=7)            # "bird: last word stone, in capitals\n"
    solved(request, generator)       # "THE OLD BIRD SEES A STONE"
    answered(request, generator, wrong=0.3)     # now and then the answer to something slightly different

Instructions are drawn and checked by `amaru.instructions`, of kinds that a small model can learn, and said in few words. An answer that
nothing is asked of goes round one ring of words, beginning where the topic stands in it.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from amaru.instructions import Instruction, draw, follows, record_of

NOUNS = ("river", "stone", "bird", "tree", "house", "ship", "moon", "horse", "garden", "bridge", "lamp", "window", "road", "cloud")
RING = tuple(  # what an answer is made of where nothing else is asked
    word for noun, rest in zip(NOUNS, ("old and", "finds the", "sees a", "near my", "under the", "with a", "keeps its") * 2, strict=True)
    for word in (noun, *rest.split())
)
SAID = {  # in few words, each in two ways
    "keywords:exact_frequency": ("{frequency} times {keyword}", "{keyword} {frequency} times"),
    "length_constraints:exact_words": ("{num_words} words", "exactly {num_words} words"),
    "startend:first_word": ("first word {first_word}", "begin with {first_word}"),
    "startend:last_word": ("last word {last_word}", "end with {last_word}"),
    "detectable_format:numbered_list": ("list of {num_items}", "{num_items} items"),
    "change_case:english_capital": ("in capitals", "all capitals"),
}
KINDS = tuple(SAID)
LENGTHS = (4, 10)  # [low, high) of words where their number is asked for
LONGEST = 16  # words of a right answer
TRIES = 60  # to find instructions that the program can follow together


@dataclass(frozen=True)
class Request:
    """What is asked, in words and as instructions."""

    text: str
    topic: str
    instructions: tuple[Instruction, ...]

    @property
    def record(self) -> dict[str, Any]:
        """A row that `amaru align` reads as a prompt."""
        return record_of(self.text, self.instructions)


def ask(seed: int) -> Request:
    """One or two instructions about some thing; the same for the same seed."""
    generator = random.Random(f"request {seed}")
    for attempt in range(TRIES):
        topic = generator.choice(NOUNS)
        some = draw(seed * TRIES + attempt, generator.randint(1, 2), kinds=KINDS, keywords=NOUNS, length=LENGTHS)
        request = Request(f"{topic}: {', '.join(_said(each, generator) for each in some)}\n", topic, some)
        answer = solved(request, generator)
        if follows(answer, some) and len(answer.split()) <= LONGEST:
            return request
    raise AssertionError(f"request {seed}: nothing that can be followed in {TRIES} tries")


def different(counts: Sequence[int], seed: int) -> list[list[Request]]:
    """So many requests for each use, no text among them twice: `learned, held_out = different([4000, 500], seed=0)`."""
    found: dict[str, Request] = {}
    number = seed * 10**7
    while len(found) < sum(counts):
        request = ask(number)
        found.setdefault(request.text, request)
        number += 1
    each = iter(found.values())
    return [[next(each) for _ in range(count)] for count in counts]


def solved(request: Request, generator: random.Random) -> str:
    """An answer that follows the instructions, as far as they go together."""
    wanted = {each.kind: each.arguments for each in request.instructions}
    listed = wanted.get("detectable_format:numbered_list", {}).get("num_items", 0)
    repeated = wanted.get("keywords:exact_frequency", {"keyword": "", "frequency": 0})
    asked = [repeated["keyword"]] * repeated["frequency"]
    fixed = asked + [each for given in wanted.values() for name, each in given.items() if name in ("first_word", "last_word")]
    count = wanted["length_constraints:exact_words"]["num_words"] - listed if "length_constraints:exact_words" in wanted else None
    free = (listed or generator.randint(3, 5)) if count is None else max(0, count - len(fixed))
    words = _around(request.topic, free, {each.lower() for each in fixed})
    place = generator.randint(0, len(words))
    words[place:place] = asked
    words = [*_given(wanted, "startend:first_word", "first_word"), *words, *_given(wanted, "startend:last_word", "last_word")]
    text = _in_lines(words, listed) if listed else " ".join(words)
    return text.upper() if "change_case:english_capital" in wanted else text


def _given(wanted: dict[str, Any], kind: str, name: str) -> list[str]:
    return [wanted[kind][name]] if kind in wanted else []


def _around(topic: str, count: int, without: set[str]) -> list[str]:
    """So many words of the ring from the topic on, none of those that count elsewhere."""
    begin = RING.index(topic)
    return [word for word in (*RING[begin:], *RING[:begin]) if word not in without][:count]


def _in_lines(words: Sequence[str], count: int) -> str:
    """A numbered list; the first lines have one word each, the last has the rest."""
    lines = [*([word] for word in words[: count - 1]), words[count - 1 :]]
    return "\n".join(f"{number}. {' '.join(line)}" for number, line in enumerate(lines, start=1))


def _said(instruction: Instruction, generator: random.Random) -> str:
    return generator.choice(SAID[instruction.kind]).format(**instruction.arguments)


def spoiled(request: Request, generator: random.Random) -> Request:
    """The same words with one instruction forgotten, or misheard."""
    place, some = generator.randrange(len(request.instructions)), list(request.instructions)
    if generator.random() < 0.5:
        del some[place]
    else:
        some[place] = draw(generator.randrange(2**30), kinds=[some[place].kind], keywords=NOUNS, length=LENGTHS)[0]
    return replace(request, instructions=tuple(some))


def answered(request: Request, generator: random.Random, wrong: float) -> str:
    """As a careless person answers: now and then something slightly different."""
    return solved(spoiled(request, generator) if generator.random() < wrong else request, generator)
