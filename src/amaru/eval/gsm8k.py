"""Word problems: the number at the end of the reasoning.

strict     the number after the first `#### `, as the answers of the set give it
flexible   the last number of the answer

These are the filters and comparisons of lm-eval's gsm8k: `$`, commas and a last full stop do not matter.
"""

import re
from collections.abc import Mapping
from typing import Any

from amaru.eval.estimate import Score
from amaru.eval.items import Question
from amaru.eval.subject import Request

GSM8K = ("strict", "flexible")
TOKENS = 256
STOP = ("Question:",)
MARKED = re.compile(r"#### (-?[0-9.,]+)")
NUMBER = re.compile(r"-?[$0-9.,]{2,}|-?[0-9]+")


def problem(record: Mapping[str, Any]) -> Question:
    """Raises `ValueError` for an answer without `####`."""
    wanted = marked(record["answer"])
    if wanted is None:
        raise ValueError("the answer has no '#### ' before its number")
    prompt = f"Question: {record['question']}\nAnswer:"

    def grade(text: str) -> dict[str, Score]:
        return {"strict": Score(float(marked(text) == wanted)), "flexible": Score(float(last(text) == wanted))}

    return Question(Request(prompt, TOKENS, STOP), grade, f"{prompt} {record['answer']}")


def marked(text: str) -> str | None:
    """`marked("9 * 2 = 18\\n#### 18") == "18"`"""
    found = MARKED.search(text)
    return found and bare(found[1])


def last(text: str) -> str | None:
    """`last("so she makes $1,018.") == "1018"`"""
    found = NUMBER.findall(text)
    return bare(found[-1]) if found else None


def bare(number: str) -> str:
    return re.sub(r"\.$", "", number.replace(",", "").replace("$", ""))
