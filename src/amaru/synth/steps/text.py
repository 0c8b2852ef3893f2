"""Answers in free text."""

from typing import Literal

from pydantic import Field

from amaru.synth.steps.step import NAME, Asked, Asking, Differing, Done, Known, adding
from amaru.synth.structured import whole_text
from amaru.synth.unit import Unit


class Text(Asking):
    """An answer in free text becomes a column; `samples` answers become so many rows."""

    kind: Literal["text"]
    column: str = Field(pattern=NAME)
    samples: int = Field(default=1, ge=1)

    def asks(self) -> tuple[Asked, ...]:
        return (Asked(self.model, self.samples, sampling=self.sampling),)

    def makes(self, has: Known) -> Known:
        return adding(has, self.column)

    def rows_of(self, taken: int, differing: Differing) -> int:
        return taken * self.samples

    async def make(self, unit: Unit) -> list[Done]:
        question = unit.written()
        asking = (unit.ask(self.model, question, whole_text, sampling=self.sampling, sample=sample) for sample in range(self.samples))
        return [(unit.columns | {self.column: text}, (call,)) for call, text in await unit.all(asking)]
