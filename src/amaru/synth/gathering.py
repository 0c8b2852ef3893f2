"""Steps that look at all rows at once, in the order of the recipe: equal ones left out, and pairs of a better and a worse answer."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from amaru.config import fingerprint_bytes
from amaru.data.near_duplicates import NearDuplicates
from amaru.synth.making import Row
from amaru.synth.recipe import Bound
from amaru.synth.steps import Pairs, Unique
from amaru.synth.store import Matched


@dataclass(frozen=True)
class LeftOut:
    """A row that does not go on, why, and the row it is a copy of."""

    row: Row
    reason: str
    matched: Matched | None = None


@dataclass
class Gathered:
    """The rows that go on, each with the key of the row that it stands for, and those that do not."""

    rows: list[tuple[str, Row]] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)

    @property
    def dropped(self) -> Counter[str]:
        return Counter(each.reason for each in self.left_out)


def gather(bound: Bound, number: int, rows: Iterable[Row]) -> Gathered:
    """What step `number` makes of all its rows. It follows from the rows alone, whichever came first."""
    step, gathered = bound.recipe.steps[number], Gathered()
    in_order = sorted(rows, key=lambda row: row.place)
    if isinstance(step, Unique):
        for row in _first_of_each(step, in_order, gathered.left_out):
            gathered.rows.append((row.key, _row(bound, number, row, "", row.columns)))
    elif isinstance(step, Pairs):
        for better, worse in _pairs(step, in_order, gathered.left_out):
            gathered.rows.append((better.key, _row(bound, number, better, worse.key, _pair(step, better, worse))))
    return gathered


def _row(bound: Bound, number: int, parent: Row, other: str, columns: dict[str, Any]) -> Row:
    return Row((*parent.place, number, 0), fingerprint_bytes(bound.unit(number, parent.key), other), columns)


def _first_of_each(step: Unique, rows: list[Row], left_out: list[LeftOut]) -> list[Row]:
    """A row that is left out tells which of those that stay it is a copy of."""
    kept: dict[str, Matched] = {}
    near = NearDuplicates(step.near, step.bands) if step.near else None
    stay = []
    for row in rows:
        text = str(row.columns.get(step.column))
        normal = " ".join(text.casefold().split())
        if equal := kept.get(normal):
            left_out.append(LeftOut(row, "equal to another row", equal))
        elif near and (like := near.add(row.key, text)):
            kept[normal] = Matched(*like)
            left_out.append(LeftOut(row, "nearly equal to another row", kept[normal]))
        else:
            kept[normal] = Matched(row.key, 1.0)
            stay.append(row)
    return stay


def _pairs(step: Pairs, rows: list[Row], left_out: list[LeftOut]) -> list[tuple[Row, Row]]:
    """Of each prompt the best and the worst answer; the first of those that are equal."""
    of_prompt: dict[str, list[Row]] = {}
    for row in rows:
        if missing := [name for name in (step.prompt, step.answer, step.score) if name not in row.columns]:
            left_out.append(LeftOut(row, f"no column {missing[0]}"))
        elif not isinstance(row.columns[step.score], int | float):
            left_out.append(LeftOut(row, f"{step.score} is not a number"))
        else:
            of_prompt.setdefault(str(row.columns[step.prompt]), []).append(row)
    found = []
    for answers in of_prompt.values():
        better, worse = (pick(answers, key=lambda row: row.columns[step.score]) for pick in (max, min))
        gap = better.columns[step.score] - worse.columns[step.score]
        if gap > 0 and gap >= step.least_gap:
            found.append((better, worse))
        else:
            left_out += [LeftOut(row, "answers too close to each other") for row in answers]
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
