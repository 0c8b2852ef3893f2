"""Rows dealt to colonies, each of which goes its own way."""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from amaru.errors import ConfigError
from amaru.synth.row import LeftOut, Row
from amaru.synth.steps.step import NAME, Differing, Gathering, Known, Stands


class Colonies(Gathering):
    """The rows dealt one by one to `count` colonies, each of which is a row: its number in `colony`, texts of `column` in `population`."""

    kind: Literal["colonies"]
    column: str = Field(pattern=NAME)
    count: int = Field(default=4, ge=1)

    def needs(self) -> set[str]:
        return {self.column}

    def makes(self, has: Known) -> Known:
        return {"colony", "population"}

    def rows_of(self, taken: int, differing: Differing) -> int:
        return min(self.count, taken)

    def gather(self, rows: list[Row], left_out: list[LeftOut]) -> Iterator[Stands]:
        for number in range(min(self.count, len(rows))):
            mine = rows[number :: self.count]
            if missing := [row for row in mine if not isinstance(row.columns.get(self.column), str)]:
                raise ConfigError(f"Step {self.name} reads a text in column {self.column}; a row has {str(missing[0].columns)[:80]}.")
            columns = {"colony": number, "population": [row.columns[self.column] for row in mine]}
            yield Stands(mine[0], tuple(row.key for row in mine[1:]), columns)
