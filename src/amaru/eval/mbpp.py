"""Short programs from a sentence and its tests, which pass when the tests do: MBPP's pass@1, greedily."""

from collections.abc import Mapping
from typing import Any

from amaru import sandbox
from amaru.eval.estimate import Score
from amaru.eval.items import Question
from amaru.eval.subject import Request

MBPP = ("pass@1",)
TOKENS = 512
END = "[DONE]"  # what MBPP's authors end a program with


def program_asked(record: Mapping[str, Any]) -> Question:
    """pass@1: the answer, behind what its tests import, runs through all of them."""
    tests = "\n".join(record["test_list"])
    said = f"You are an expert Python programmer, and here is your task: {record['prompt']} Your code should pass these tests:\n\n{tests}"
    prompt = f"{said}\n[BEGIN]\n"

    def grade(text: str) -> dict[str, Score]:
        return {"pass@1": Score(float(sandbox.run(tested(record, text)).passed))}

    return Question(Request(prompt, TOKENS, (END,)), grade, f"{prompt}{record['code']}\n{END}" if record.get("code") else None)


def tested(record: Mapping[str, Any], text: str) -> str:
    """The answer, which in a chat model's is the fenced code, and the tests behind what they import."""
    code = next(iter(sandbox.fenced(text)), text.split(END)[0])
    return "\n".join([*record.get("test_imports", ()), code, *record["test_list"], ""])
