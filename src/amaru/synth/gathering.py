"""Steps that look at all rows at once, in the order of the recipe: equal ones left out, and pairs of a better and a worse answer."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from amaru.config import fingerprint_bytes
from amaru.synth.making import Row
from amaru.synth.recipe import Bound
from amaru.synth.steps import Pairs, Unique


@dataclass
class Gathered:
    """The rows that go on, each with the key of the row that it stands for, and why others do not."""

    rows: list[tuple[str, Row]] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)


def gather(bound: Bound, number: int, rows: Iterable[Row]) -> Gathered:
    """What step `number` makes of all its rows. It follows from the rows alone, whichever came first."""
    step, gathered = bound.recipe.steps[number], Gathered()
    in_order = sorted(rows, key=lambda row: row.place)
    if isinstance(step, Unique):
        for row in _first_of_each(step, in_order, gathered.dropped):
            gathered.rows.append((row.key, _row(bound, number, row, "", row.columns)))
    elif isinstance(step, Pairs):
        for better, worse in _pairs(step, in_order, gathered.dropped):
            gathered.rows.append((better.key, _row(bound, number, better, worse.key, _pair(step, better, worse))))
    return gathered


def _row(bound: Bound, number: int, parent: Row, other: str, columns: dict[str, Any]) -> Row:
    return Row((*parent.place, number, 0), fingerprint_bytes(bound.unit(number, parent.key), other), columns)


def _first_of_each(step: Unique, rows: list[Row], dropped: Counter[str]) -> list[Row]:
    first: dict[str, Row] = {}
    for row in rows:
        if first.setdefault(" ".join(str(row.columns.get(step.column)).casefold().split()), row) is not row:
            dropped["equal to one before"] += 1
    return list(first.values())


def _pairs(step: Pairs, rows: list[Row], dropped: Counter[str]) -> list[tuple[Row, Row]]:
    """Of each prompt the best and the worst answer; the first of those that are equal."""
    of_prompt: dict[str, list[Row]] = {}
    for row in rows:
        if missing := [name for name in (step.prompt, step.answer, step.score) if name not in row.columns]:
            dropped[f"no column {missing[0]}"] += 1
        elif not isinstance(row.columns[step.score], int | float):
            dropped[f"{step.score} is not a number"] += 1
        else:
            of_prompt.setdefault(str(row.columns[step.prompt]), []).append(row)
    found = []
    for answers in of_prompt.values():
        better, worse = (pick(answers, key=lambda row: row.columns[step.score]) for pick in (max, min))
        gap = better.columns[step.score] - worse.columns[step.score]
        if gap > 0 and gap >= step.least_gap:
            found.append((better, worse))
        else:
            dropped["answers too close to each other"] += len(answers)
    return found


def _pair(step: Pairs, better: Row, worse: Row) -> dict[str, Any]:
    """As preference training reads it: both answers to one prompt, with the scores that tell them apart."""
    return {
        "prompt": better.columns[step.prompt],
        "chosen_response": better.columns[step.answer],
        "rejected_response": worse.columns[step.answer],
        "chosen_reward": better.columns[step.score],
        "rejected_reward": worse.columns[step.score],
    }
