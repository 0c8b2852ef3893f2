"""Steps that look at all rows at once, in the order of the recipe."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from amaru.config import fingerprint_bytes
from amaru.synth.recipe import Bound
from amaru.synth.row import LeftOut, Row
from amaru.synth.steps import Gathering


class Goes(NamedTuple):
    """A row that goes on, the key of the row that it stands for, and those of others that are in it."""

    row: Row
    parent: str
    others: tuple[str, ...]


@dataclass
class Gathered:
    """The rows that go on, and those that do not."""

    rows: list[Goes] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)

    @property
    def dropped(self) -> Counter[str]:
        return Counter(each.reason for each in self.left_out)


def gather(bound: Bound, number: int, rows: Iterable[Row]) -> Gathered:
    """What step `number` makes of all its rows. It follows from the rows alone, whichever came first."""
    step, gathered = bound.recipe.steps[number], Gathered()
    assert isinstance(step, Gathering)
    for parent, others, columns in step.gather(sorted(rows, key=lambda row: row.place), gathered.left_out):
        key = fingerprint_bytes(bound.unit(number, parent.key), "".join(others))
        gathered.rows.append(Goes(Row((*parent.place, number, len(gathered.rows)), key, columns), parent.key, others))
    return gathered
