"""Random instructions that can be followed together: `draw(seed=7, count=2)`."""

import random
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from amaru.errors import ConfigError
from amaru.instructions.instruction import Instruction
from amaru.instructions.wording import LANGUAGES, sentence_of

COMMON = (
    "river mountain morning window garden letter market winter music bridge travel history science teacher family weather kitchen "
    "animal island village machine colour forest doctor balance question journey number picture light water stone paper dinner friend "
    "engine summer ocean story planet"
)
KEYWORDS = tuple(COMMON.split())
FEWEST = 7  # keywords: so many can be needed by one draw, which never uses a word twice
ENDINGS = ("That is all there is to say.", "Thank you for reading.", "Is there anything else?", "And so it ends.")
SECTIONS = ("Section", "Part", "Chapter", "Day")


@dataclass(frozen=True)
class Given:
    """What arguments are drawn from: a generator, words that have not been asked for yet, [low, high) words of an answer, the prompt."""

    generator: random.Random
    keywords: list[str]
    length: tuple[int, int]
    prompt: str | None

    def relation(self) -> str:
        return self.generator.choice(("at least", "less than"))

    def between(self, low: int, high: int) -> int:
        return self.generator.randint(low, high)

    def words(self, low: int, high: int) -> list[str]:
        return [self.keywords.pop(self.generator.randrange(len(self.keywords))) for _ in range(self.between(low, high))]

    def count_of_words(self) -> int:
        return self.generator.randrange(*self.length, 10 if self.length[1] - self.length[0] >= 50 else 1)


def _nth_paragraph(given: Given) -> dict[str, Any]:
    count = given.between(2, 5)
    return {"num_paragraphs": count, "nth_paragraph": given.between(1, count), "first_word": given.words(1, 1)[0]}


ARGUMENTS: dict[str, Callable[[Given], dict[str, Any]]] = {
    "keywords:existence": lambda given: {"keywords": given.words(2, 4)},
    "keywords:frequency": lambda given: {"keyword": given.words(1, 1)[0], "relation": given.relation(), "frequency": given.between(2, 5)},
    "keywords:forbidden_words": lambda given: {"forbidden_words": given.words(2, 4)},
    "keywords:letter_frequency": lambda given: {
        "letter": given.generator.choice(string.ascii_lowercase),
        "let_relation": given.relation(),
        "let_frequency": given.between(3, 20),
    },
    "keywords:exact_frequency": lambda given: {"keyword": given.words(1, 1)[0], "frequency": given.between(2, 5)},
    "language:response_language": lambda given: {"language": given.generator.choice(sorted(LANGUAGES))},
    "length_constraints:number_sentences": lambda given: {"num_sentences": given.between(3, 15), "relation": given.relation()},
    "length_constraints:number_words": lambda given: {"num_words": given.count_of_words(), "relation": given.relation()},
    "length_constraints:exact_words": lambda given: {"num_words": given.count_of_words()},
    "length_constraints:number_paragraphs": lambda given: {"num_paragraphs": given.between(2, 5)},
    "length_constraints:nth_paragraph_first_word": _nth_paragraph,
    "detectable_content:number_placeholders": lambda given: {"num_placeholders": given.between(2, 6)},
    "detectable_content:postscript": lambda given: {"postscript_marker": given.generator.choice(("P.S.", "P.P.S"))},
    "detectable_format:number_bullet_lists": lambda given: {"num_bullets": given.between(2, 7)},
    "detectable_format:numbered_list": lambda given: {"num_items": given.between(2, 7)},
    "detectable_format:constrained_response": lambda given: {},
    "detectable_format:number_highlighted_sections": lambda given: {"num_highlights": given.between(2, 5)},
    "detectable_format:multiple_sections": lambda given: {
        "section_spliter": given.generator.choice(SECTIONS),
        "num_sections": given.between(2, 5),
    },
    "detectable_format:json_format": lambda given: {},
    "detectable_format:title": lambda given: {},
    "combination:two_responses": lambda given: {},
    "combination:repeat_prompt": lambda given: {"prompt_to_repeat": given.prompt},
    "startend:end_checker": lambda given: {"end_phrase": given.generator.choice(ENDINGS)},
    "startend:quotation": lambda given: {},
    "startend:first_word": lambda given: {"first_word": given.words(1, 1)[0]},
    "startend:last_word": lambda given: {"last_word": given.words(1, 1)[0]},
    "change_case:capital_word_frequency": lambda given: {"capital_relation": given.relation(), "capital_frequency": given.between(2, 8)},
    "change_case:english_capital": lambda given: {},
    "change_case:english_lowercase": lambda given: {},
    "punctuation:no_comma": lambda given: {},
}
CLAIMS = {  # what of an answer an instruction decides; two that decide the same are never drawn together
    "keywords:existence": "words",
    "keywords:frequency": "words",
    "keywords:forbidden_words": "words",
    "keywords:exact_frequency": "words",
    "keywords:letter_frequency": "length words start end parts",
    "length_constraints:number_sentences": "length",
    "length_constraints:number_words": "length",
    "length_constraints:exact_words": "length",
    "length_constraints:number_paragraphs": "parts",
    "length_constraints:nth_paragraph_first_word": "parts start",
    "detectable_format:multiple_sections": "parts case",
    "detectable_format:numbered_list": "parts start",
    "detectable_format:number_bullet_lists": "list",
    "detectable_format:number_highlighted_sections": "list",
    "detectable_content:postscript": "end",
    "startend:end_checker": "end",
    "startend:last_word": "end",
    "startend:quotation": "start end",
    "startend:first_word": "start",
    "detectable_format:title": "start",
    "combination:repeat_prompt": "start case words length punctuation list",
    "change_case:capital_word_frequency": "case",
    "change_case:english_capital": "case",
    "change_case:english_lowercase": "case",
    "detectable_content:number_placeholders": "placeholders",
    "punctuation:no_comma": "punctuation",
}
PARTNERS = {  # of instructions that decide nearly everything, those that still leave room
    "language:response_language": ("length_constraints:number_paragraphs", "detectable_format:title", "punctuation:no_comma"),
    "detectable_format:json_format": ("keywords:existence", "keywords:forbidden_words", "keywords:frequency"),
    "combination:two_responses": ("keywords:existence", "keywords:forbidden_words", "punctuation:no_comma"),
    "detectable_format:constrained_response": (),
}
KINDS = tuple(ARGUMENTS)


def draw(
    seed: int,
    count: int = 1,
    *,
    kinds: Sequence[str] = KINDS,
    keywords: Sequence[str] = KEYWORDS,
    length: tuple[int, int] = (40, 400),
    prompt: str | None = None,
) -> tuple[Instruction, ...]:
    """`count` instructions that one answer can follow, the same for the same arguments; fewer where no more of `kinds` go together.

    length   [low, high) of the number of words where one is asked for, from 2: less than 1 word would be none
    prompt   what is asked besides; without it, repeating the prompt is not drawn
    Raises `ConfigError` for a kind that is not known, fewer than 7 keywords, and a range of lengths without a number in it.
    """
    if unknown := [kind for kind in kinds if kind not in ARGUMENTS]:
        raise ConfigError(f"There is no instruction '{unknown[0]}'. There is: {', '.join(KINDS)}.")
    if not 1 < length[0] < length[1] or len(set(keywords)) < FEWEST:
        raise ConfigError(
            f"Instructions are drawn from {FEWEST} keywords or more and lengths [low, high) with 1 < low < high; "
            f"got {len(set(keywords))} keywords and {length}."
        )
    generator = random.Random(f"instructions {seed}")
    given = Given(generator, list(dict.fromkeys(keywords)), length, prompt)
    left = [kind for kind in kinds if prompt is not None or kind != "combination:repeat_prompt"]
    found: list[Instruction] = []
    while left and len(found) < count:
        kind = generator.choice(left)
        arguments = ARGUMENTS[kind](given)
        found.append(Instruction(kind, arguments, sentence_of(kind, arguments, generator)))
        left = [other for other in left if together(kind, other)]
    return tuple(found)


def together(one: str, other: str) -> bool:
    """Whether an answer can follow both kinds, whatever their arguments."""
    if one == other:
        return False
    if one in PARTNERS or other in PARTNERS:
        return other in PARTNERS.get(one, ()) or one in PARTNERS.get(other, ())
    return not set(CLAIMS[one].split()) & set(CLAIMS[other].split())
