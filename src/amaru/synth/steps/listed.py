"""Lists of exactly so many items."""

from typing import ClassVar, Literal

from pydantic import Field

from amaru.synth.schema import list_schema
from amaru.synth.steps.step import NAME, Asked, Asking, Differing, Done, Known, adding
from amaru.synth.structured import read_list
from amaru.synth.unit import Unit


class Listed(Asking):
    """Exactly `count` different items are asked for; each becomes a row of its own. The prompt is given `count`."""

    gives: ClassVar[frozenset[str]] = frozenset({"count"})

    kind: Literal["list"]
    column: str = Field(pattern=NAME)
    count: int = Field(ge=1)

    def asks(self) -> tuple[Asked, ...]:
        return (Asked(self.model, schema=list_schema(self.count), sampling=self.sampling),)

    def makes(self, has: Known) -> Known:
        return adding(has, self.column)

    def rows_of(self, taken: int, differing: Differing) -> int:
        return taken * self.count

    async def make(self, unit: Unit) -> list[Done]:
        call, items = await unit.ask(
            self.model,
            unit.written(count=self.count),
            lambda answer: read_list(answer, self.count),
            schema=list_schema(self.count),
            sampling=self.sampling,
        )
        return [(unit.columns | {self.column: item}, (call,)) for item in items]
