"""Equal rows left out, and nearly equal ones."""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from amaru.data.near_duplicates import NearDuplicates
from amaru.synth.row import LeftOut, Matched, Row
from amaru.synth.steps.step import NAME, Gathering, Stands, complete


class Unique(Gathering):
    """Of rows with equal text in a column (but for case and blanks) the first goes on, in the order of the recipe, whatever came first.

    near    rows whose texts are this similar are left out too: the share of runs of five characters (of those in either) that both have
    bands   of MinHash, by which near rows are found; more of them miss fewer (`amaru.data.near_duplicates`)
    """

    kind: Literal["unique"]
    column: str = Field(pattern=NAME)
    near: float | None = Field(default=None, gt=0, lt=1)
    bands: Literal[8, 16, 32, 64] = 32

    def needs(self) -> set[str]:
        return {self.column}

    def gather(self, rows: list[Row], left_out: list[LeftOut]) -> Iterator[Stands]:
        """A row that is left out tells which of those that stay it is a copy of."""
        kept: dict[str, Matched] = {}
        near = NearDuplicates(self.near, self.bands) if self.near else None
        for row in complete(rows, left_out, self.column):
            text = str(row.columns[self.column])
            normal = " ".join(text.casefold().split())
            if equal := kept.get(normal):
                left_out.append(LeftOut(row, "equal to another row", equal))
            elif near and (like := near.add(row.key, text)):
                kept[normal] = Matched(*like)
                left_out.append(LeftOut(row, "nearly equal to another row", kept[normal]))
            else:
                kept[normal] = Matched(row.key, 1.0)
                yield Stands(row, (), row.columns)
