"""Short answers: what is said in the first line, compared with all that counts as right."""

import re
import string
from collections.abc import Mapping
from typing import Any

from amaru.eval.estimate import Score
from amaru.eval.items import Question
from amaru.eval.subject import Request

ANSWERED = ("accuracy", "begins")
TOKENS = 64
ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)


def answered(record: Mapping[str, Any]) -> Question:
    """accuracy: the first line is one of the answers, both `plain`; begins: it begins with one."""
    right = [str(record["answer"]), *map(str, record.get("aliases", ()))]
    context = record["context"].rstrip()
    prompt = context if context.endswith(":") else f"{context}\nAnswer:"

    def grade(text: str) -> dict[str, Score]:
        return graded(text, right)

    return Question(Request(prompt, TOKENS, stop=("\n",)), grade, f"{prompt} {right[0]}")


def graded(text: str, right: list[str]) -> dict[str, Score]:
    said, wanted = plain(text.strip().split("\n")[0]), {plain(each) for each in right} - {""}
    begins = any(said == each or said.startswith(f"{each} ") for each in wanted)
    return {"accuracy": Score(float(said in wanted)), "begins": Score(float(begins))}


def plain(text: str) -> str:
    """`plain("The  Eiffel Tower!") == "eiffel tower"`: lower case, no punctuation, no articles, single spaces (as SQuAD compares)."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())
