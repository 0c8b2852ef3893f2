"""Functions from their docstrings, which pass when their tests do: HumanEval's pass@1, greedily."""

import re
from collections.abc import Mapping
from typing import Any

from amaru import sandbox
from amaru.eval.estimate import Score
from amaru.eval.items import Question
from amaru.eval.subject import Request

HUMANEVAL = ("pass@1",)
TOKENS = 512
STOP = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")  # what HumanEval's authors ended functions at


def function(record: Mapping[str, Any]) -> Question:
    """pass@1: the program of prompt, answer and tests runs to its end.

    Raises `ValueError` for a prompt that does not begin the function.
    """
    if f"def {record['entry_point']}" not in record["prompt"]:
        raise ValueError(f"the prompt does not begin the function {record['entry_point']}")

    def grade(text: str) -> dict[str, Score]:
        return {"pass@1": Score(float(sandbox.run(program(record, text)).passed))}

    return Question(Request(record["prompt"], TOKENS, STOP), grade)


def program(record: Mapping[str, Any], text: str) -> str:
    """Prompt, answer, tests. An answer of a chat model is the fenced code that defines the function, behind the prompt's imports."""
    name = record["entry_point"]
    whole = next((code for code in sandbox.fenced(text) if re.search(rf"^def {re.escape(name)}\b", code, re.MULTILINE)), None)
    head = record["prompt"] + text if whole is None else before(record["prompt"], name) + whole
    return f"{head}\n\n{record['test']}\n\ncheck({name})\n"


def before(prompt: str, name: str) -> str:
    """What stands before the function: imports and helpers."""
    return prompt[: prompt.index(f"def {name}")]
