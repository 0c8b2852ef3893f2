"""One answer against one instruction, strictly or loosely: `followed("no commas", check_of("punctuation:no_comma", {}))`."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from amaru.instructions.checks import CHECKS
from amaru.instructions.further import FURTHER

Check = Callable[[str], bool]


def check_of(name: str, arguments: Mapping[str, Any]) -> Check:
    """A check with its arguments; those that are None (files of the Hub have all names everywhere) are not given.

    Raises `ValueError` for an instruction that is not known, or arguments that are not its own.
    """
    check = CHECKS.get(name) or FURTHER.get(name)
    if check is None:
        raise ValueError(f"the instruction '{name}' is not one of IFEval's {len(CHECKS)}, nor one of our further {len(FURTHER)}")
    given = {key: _whole(name, value) for key, value in arguments.items() if value is not None}
    wanted = list(inspect.signature(check).parameters)[1:]
    if set(given) != set(wanted):
        raise ValueError(f"{name} takes {', '.join(wanted) or 'no arguments'}; got {', '.join(given) or 'none'}")
    return partial(check, **given)


def _whole(name: str, value: Any) -> Any:
    """Counts may have come as 3.0; none is 2.5."""
    if isinstance(value, float) and not value.is_integer():
        raise ValueError(f"{name} counts in whole numbers; got {value}")
    return int(value) if isinstance(value, float) else value


def followed(text: str, check: Check) -> bool:
    """An empty answer follows nothing."""
    return bool(text.strip()) and check(text)


def followed_loosely(text: str, check: Check) -> bool:
    """As IFEval's loose accuracy: the answer, or one of its variants."""
    return any(followed(each, check) for each in loosely(text))


def loosely(text: str) -> list[str]:
    """The answer, without its first line, without its last, without both; each also without asterisks."""
    lines = text.split("\n")
    cut = [text, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    return [*cut, *(each.replace("*", "") for each in cut)]
