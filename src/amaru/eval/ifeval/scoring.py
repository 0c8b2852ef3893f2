"""How well answers follow their instructions: per prompt (all of them) and per instruction, strictly and loosely."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from amaru.eval.estimate import Score
from amaru.eval.ifeval.checks import CHECKS
from amaru.eval.items import Question
from amaru.eval.subject import Request

IFEVAL = ("prompt strict", "instruction strict", "prompt loose", "instruction loose")
TOKENS = 1280

Check = Callable[[str], bool]


def instructed(record: Mapping[str, Any]) -> Question:
    """Raises `ValueError` for an instruction that is not known, or arguments that are not its own."""
    names, given = record["instruction_id_list"], record["kwargs"]
    if not names or len(names) != len(given):
        raise ValueError(f"it has {len(names)} instructions and {len(given)} sets of arguments")
    checks = [check_of(name, arguments) for name, arguments in zip(names, given, strict=True)]

    def grade(text: str) -> dict[str, Score]:
        return graded(text, checks)

    return Question(Request(record["prompt"], TOKENS), grade)


def check_of(name: str, arguments: Mapping[str, Any]) -> Check:
    """A check with its arguments; those that are None (files of the Hub have all names everywhere) are not given."""
    if name not in CHECKS:
        raise ValueError(f"the instruction '{name}' is not one of IFEval's {len(CHECKS)}")
    given = {key: int(value) if isinstance(value, float) else value for key, value in arguments.items() if value is not None}
    wanted = list(inspect.signature(CHECKS[name]).parameters)[1:]
    if set(given) != set(wanted):
        raise ValueError(f"{name} takes {', '.join(wanted) or 'no arguments'}; got {', '.join(given) or 'none'}")
    return partial(CHECKS[name], **given)


def graded(text: str, checks: list[Check]) -> dict[str, Score]:
    strict = [followed(text, check) for check in checks]
    loose = [any(followed(each, check) for each in loosely(text)) for check in checks]
    scores = {}
    for kind, found in (("strict", strict), ("loose", loose)):
        scores[f"prompt {kind}"] = Score(float(all(found)))
        scores[f"instruction {kind}"] = Score(sum(found) / len(found), len(found))
    return scores


def followed(text: str, check: Check) -> bool:
    """An empty answer follows nothing."""
    return bool(text.strip()) and check(text)


def loosely(text: str) -> list[str]:
    """The answer, without its first line, without its last, without both; each also without asterisks."""
    lines = text.split("\n")
    cut = [text, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    return [*cut, *(each.replace("*", "") for each in cut)]
