"""A row on its way through a recipe, the order that all rows have, and how a row is left out."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from amaru.synth.store import Made, Matched


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
