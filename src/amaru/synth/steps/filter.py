"""Rows left out by what their columns say."""

from functools import cached_property
from typing import Literal

from pydantic import Field

from amaru.synth.prompt import Expression
from amaru.synth.row import Dropped
from amaru.synth.steps.step import Differing, Done, Making
from amaru.synth.unit import Unit


class Filter(Making):
    """Rows for which a jinja expression is true go on; `share` of them is what plans count with."""

    kind: Literal["filter"]
    where: str
    share: float = Field(default=1.0, gt=0, le=1)

    def rows_of(self, taken: int, differing: Differing) -> int:
        return round(taken * self.share)

    def check(self) -> None:
        _ = self._expression

    async def make(self, unit: Unit) -> list[Done]:
        if not self._expression.value(unit.columns):
            raise Dropped(f"not: {self.where}")
        return [(unit.columns, ())]

    @cached_property
    def _expression(self) -> Expression:
        return Expression(self.where)
