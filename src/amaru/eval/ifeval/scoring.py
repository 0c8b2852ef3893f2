"""How well answers follow their instructions: per prompt (all of them) and per instruction, strictly and loosely."""

from collections.abc import Mapping
from typing import Any

from amaru.eval.estimate import Score
from amaru.eval.items import Question
from amaru.eval.subject import Request
from amaru.instructions import Check, check_of, followed, followed_loosely

IFEVAL = ("prompt strict", "instruction strict", "prompt loose", "instruction loose")
TOKENS = 1280


def instructed(record: Mapping[str, Any]) -> Question:
    """Raises `ValueError` for an instruction that is not known, or arguments that are not its own."""
    names, given = record["instruction_id_list"], record["kwargs"]
    if not names or len(names) != len(given):
        raise ValueError(f"it has {len(names)} instructions and {len(given)} sets of arguments")
    checks = [check_of(name, arguments) for name, arguments in zip(names, given, strict=True)]

    def grade(text: str) -> dict[str, Score]:
        return graded(text, checks)

    return Question(Request(record["prompt"], TOKENS), grade)


def graded(text: str, checks: list[Check]) -> dict[str, Score]:
    scores = {}
    for kind, rule in (("strict", followed), ("loose", followed_loosely)):
        found = [rule(text, check) for check in checks]
        scores[f"prompt {kind}"] = Score(float(all(found)))
        scores[f"instruction {kind}"] = Score(sum(found) / len(found), len(found))
    return scores
