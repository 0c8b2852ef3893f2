"""What a judge is asked, in words, and how its verdict is read: a rating in double brackets, or the letter of the better assistant.

The words are amaru's own. They ask for what MT-Bench asks for, so ratings compare models that one judge rated, not with published ones.
"""

import re
from collections.abc import Mapping, Sequence

Message = Mapping[str, str]
VERSION = "1"
RATING = re.compile(r"\[\[\s*(\d{1,2}(?:\.\d+)?)\s*\]\]")
LETTER = re.compile(r"\[\[\s*([ABC])\s*\]\]")

FAIR = (
    "You are an impartial judge of answers that an AI assistant gave to a user. Look at how helpful, relevant, correct, deep, creative and "
    "detailed they are. Length alone is no merit."
)
RATE = (
    "First explain your judgement in a few sentences. Then rate {what} on a scale from 1 to 10, as the last line and strictly in this "
    "form: Rating: [[5]]"
)
CHOOSE = (
    "First compare the two in a few sentences. Neither the order in which they stand nor their names may influence you. Then say which "
    "assistant did better over both turns, as the last line and strictly in this form: [[A]] if assistant A did, [[B]] if assistant B did, "
    "[[C]] if neither did."
)


def rating_of(said: str) -> float | None:
    """`rating_of("Good.\\nRating: [[7.5]]") == 7.5`; None where there is none from 1 to 10. The last one counts."""
    found = [float(each) for each in RATING.findall(said)]
    return found[-1] if found and 1 <= found[-1] <= 10 else None


def letter_of(said: str) -> str | None:
    """`letter_of("Both are fine: [[C]]") == "C"`; None where there is none. The last one counts."""
    found = LETTER.findall(said)
    return found[-1] if found else None


def rated(turns: Sequence[str], answers: Sequence[str], references: Sequence[str] | None) -> list[Message]:
    """To rate the last of the answers, with the turns before it in sight."""
    what = "the answer" if len(answers) == 1 else "the answer to the last question alone"
    told = [FAIR, RATE.format(what=what), *_reference(turns, references, len(answers)), *_conversation("the assistant", turns, answers)]
    return [{"role": "user", "content": "\n\n".join(told)}]


def compared(turns: Sequence[str], one: Sequence[str], other: Sequence[str], references: Sequence[str] | None) -> list[Message]:
    """To choose between two conversations on the same questions."""
    sides = [*_conversation("assistant A", turns, one), *_conversation("assistant B", turns, other)]
    return [{"role": "user", "content": "\n\n".join([FAIR, CHOOSE, *_reference(turns, references, len(turns)), *sides])}]


def _reference(turns: Sequence[str], references: Sequence[str] | None, count: int) -> list[str]:
    if references is None:
        return []
    parts = [
        f"Question:\n{turn}\n\nReference answer:\n{answer}" for turn, answer in zip(turns[:count], references[:count], strict=True)
    ]
    return ["Correct answers for reference; where the assistant differs from them, find out whether it is wrong.", *parts]


def _conversation(who: str, turns: Sequence[str], answers: Sequence[str]) -> list[str]:
    parts = [f"User:\n{turn}\n\nAnswer of {who}:\n{answer}" for turn, answer in zip(turns, answers, strict=False)]
    return [f"<conversation with {who}>", *parts, f"</conversation with {who}>"]
