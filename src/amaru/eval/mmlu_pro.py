"""MMLU-Pro: questions with up to ten options, reasoned out before a letter is named.

Prompt, examples and the letter that counts are those of the set's own harness, which lm-eval follows.
"""

import re
from collections.abc import Mapping
from string import ascii_uppercase
from typing import Any

from amaru.eval.estimate import Score
from amaru.eval.items import Question
from amaru.eval.subject import Request

MMLU_PRO = ("accuracy",)
TOKENS = 2048
STOP = ("Question:",)
THINKING = "Let's think step by step."
NAMED = re.compile(r"answer is \(?([A-P])\)?")


def reasoned(record: Mapping[str, Any]) -> Question:
    """accuracy: the letter behind the first "answer is" is the right one.

    Raises `ValueError` where the right letter is not one of an option.
    """
    letters = ascii_uppercase[: len(record["options"])]
    if record["answer"] not in tuple(letters):
        raise ValueError(f"the right answer is {record['answer']!r}, of {len(letters)} options")
    lines = "".join(f"{letter}. {option}\n" for letter, option in zip(letters, record["options"], strict=True))
    prompt = f"Question:\n{record['question']}\nOptions:\n{lines}Answer: {THINKING}"

    def grade(text: str) -> dict[str, Score]:
        return {"accuracy": Score(float(letter_of(text) == record["answer"]))}

    return Question(Request(prompt, TOKENS, STOP), grade, _solved(prompt, record.get("cot_content")))


def letter_of(text: str) -> str | None:
    """`letter_of("so the answer is (C).") == "C"`"""
    found = NAMED.search(text)
    return found and found[1]


def _solved(prompt: str, reasons: str | None) -> str | None:
    """The item with its reasons, which only examples have: `A: Let's think step by step. ... The answer is (C).`"""
    return prompt.removesuffix(THINKING) + reasons.removeprefix("A: ") if reasons else None
