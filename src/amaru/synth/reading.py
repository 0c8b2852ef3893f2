"""The rows of a recipe that are finished, read from its store in the order of the recipe, with where each came from."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from amaru.synth.gathering import gather
from amaru.synth.making import seeds
from amaru.synth.recipe import Bound
from amaru.synth.row import DROPPED, FAILED, MADE, START, Row, placed
from amaru.synth.steps import Gathering, Starting
from amaru.synth.store import Store

OWN = "own_id"  # what a column `id` of people's rows is called at the end: `id` leads back through the steps


@dataclass(frozen=True)
class Lost:
    """A row that a step took and that came to nothing: `state` is dropped or failed; `unit` is the key of what was to become of it."""

    row: Row
    unit: str
    state: str
    reason: str


@dataclass
class Finished:
    """The rows of one step, how many of those it takes are not finished yet, and those that came to nothing."""

    rows: list[Row]
    unfinished: int = 0
    lost: list[Lost] = field(default_factory=list)

    @property
    def dropped(self) -> Counter[str]:
        return Counter(each.reason for each in self.lost if each.state == DROPPED)

    @property
    def failed(self) -> Counter[str]:
        return Counter(each.reason for each in self.lost if each.state == FAILED)


def read_rows(bound: Bound, store: Store) -> list[Finished]:
    """Of every step, in their order. The same recipe and store give the same rows, whatever order they were made in."""
    found: list[Finished] = []
    for number, step in enumerate(bound.recipe.steps):
        before = [row for other in bound.recipe.before(number) for row in found[other].rows]
        taken = sorted(before, key=lambda row: row.place) if bound.recipe.before(number) else [START]
        if isinstance(step, Starting):
            found.append(Finished(placed(number, START, seeds(bound, number))))
        elif isinstance(step, Gathering):
            gathered = gather(bound, number, taken)
            lost = [Lost(each.row, bound.unit(number, each.row.key), DROPPED, each.reason) for each in gathered.left_out]
            found.append(Finished([each.row for each in gathered.rows], lost=lost))
        else:
            found.append(_finished(bound, number, taken, store))
    return found


def _finished(bound: Bound, number: int, taken: list[Row], store: Store) -> Finished:
    of_step, units = Finished([]), store.units(bound.recipe.steps[number].name)
    for row in taken:
        unit = units.get(key := bound.unit(number, row.key))
        if unit is None:
            of_step.unfinished += 1
        elif unit.state == MADE:
            of_step.rows += placed(number, row, unit.made)
        else:
            of_step.lost.append(Lost(row, key, unit.state, unit.reason))
    return of_step


def trace(store: Store, row: str) -> list[dict[str, Any]]:
    """Where a row came from: every step back to the first, each with the row it made, the calls whose answers are in it, and `others`:
    the keys of more rows that went into it, such as the rejected answer of a pair. They have a trace of their own.
    """
    steps = []
    while (origin := store.origin(row)) is not None:
        step, parent, calls = origin
        steps.append({"step": step, "row": row, "calls": calls, "others": store.others(row)})
        row = parent
    return steps


def results(bound: Bound, found: list[Finished]) -> Iterator[dict[str, Any]]:
    """The columns of all rows that no step takes further, each with its key as `id`; a column of that name is `own_id`."""
    for number in bound.recipe.last:
        for row in found[number].rows:
            yield {"id": row.key, **{OWN if name == "id" else name: value for name, value in row.columns.items()}}
