"""A row on its way through a recipe, the order that all rows have, how a row is left out, and what became of it in a step."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

MADE, DROPPED, FAILED = "made", "dropped", "failed"


@dataclass(frozen=True)
class Made:
    """One row that a step made: its key, its columns, the keys of the calls whose answers are in it, and those of other rows than its
    parent that are in it.
    """

    key: str
    columns: dict[str, Any]
    calls: tuple[str, ...] = ()
    others: tuple[str, ...] = ()


class Outcome(NamedTuple):
    """What became of a row in a step: made, dropped or failed, the reason, and the rows that came of it."""

    state: str
    reason: str
    made: list[Made]


@dataclass(frozen=True)
class Matched:
    """What a row was dropped for: the key of the row it is a copy of, or the item of an evaluation set whose words it has."""

    item: str
    similarity: float | None = None
    words: str | None = None


@dataclass(frozen=True)
class Row:
    """A row on its way. `place` orders all rows as the recipe does, whichever came first: of each step its number and that of the row."""

    place: tuple[int, ...]
    key: str
    columns: dict[str, Any]


START = Row((), "start", {})


@dataclass(frozen=True)
class LeftOut:
    """A row that does not go on, why, and the row it is a copy of."""

    row: Row
    reason: str
    matched: Matched | None = None


class Dropped(Exception):
    """A row that is left out, and why; `matched` is what it has in common with something else."""

    def __init__(self, reason: str, matched: Matched | None = None) -> None:
        super().__init__(reason)
        self.matched = matched


def placed(number: int, parent: Row, made: Iterable[Made]) -> list[Row]:
    return [Row((*parent.place, number, index), each.key, each.columns) for index, each in enumerate(made)]
