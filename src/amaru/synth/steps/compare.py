"""A judge who sees two answers, in both orders, and is believed where the order does not matter."""

from typing import ClassVar, Literal

from pydantic import Field

from amaru.synth.call import Answer
from amaru.synth.conversation import messages_of, shown
from amaru.synth.row import Dropped
from amaru.synth.steps.pairs import PAIR
from amaru.synth.steps.step import NAME, Asked, Asking, Done, Known
from amaru.synth.structured import read_object
from amaru.synth.unit import Unit

FIRST, SECOND, NEITHER = "first", "second", "neither"
SCHEMA = {
    "type": "object",
    "properties": {"reason": {"type": "string"}, "better": {"type": "string", "enum": [FIRST, SECOND, NEITHER]}},
    "required": ["reason", "better"],
    "additionalProperties": False,
}


class Compare(Asking):
    """Of two answers the better one is chosen by a model that sees them in both orders; a row whose verdict changes with the order is left
    out. What stays has the columns of steps of kind pairs, with rewards 1 and 0. The prompt is given conversation, first and second.
    """

    gives: ClassVar[frozenset[str]] = frozenset({"conversation", "first", "second"})

    kind: Literal["compare"]
    prompt: str = "compare_answers"
    of: str = Field(default="prompt", pattern=NAME)
    answer: str = Field(default="answer", pattern=NAME)
    other: str = Field(default="other", pattern=NAME)

    def asks(self) -> tuple[Asked, ...]:
        return (Asked(self.model, 2, schema=SCHEMA, sampling=self.sampling),)

    def needs(self) -> set[str]:
        return {self.of, self.answer, self.other}

    def makes(self, has: Known) -> Known:
        return set(PAIR)

    async def make(self, unit: Unit) -> list[Done]:
        one, other = unit.text(self.answer), unit.text(self.other)
        (call, verdict), (swapped_call, swapped) = await unit.all([self._ask(unit, one, other), self._ask(unit, other, one)])
        if verdict == swapped == NEITHER:
            raise Dropped("neither answer is better")
        if {verdict, swapped} != {FIRST, SECOND}:
            raise Dropped("the verdict changes with the order of the answers")
        better, worse = (one, other) if verdict == FIRST else (other, one)
        values = (unit.column(self.of), better, worse, 1.0, 0.0, self.model)
        return [(dict(zip(PAIR, values, strict=True)), (call, swapped_call))]

    async def _ask(self, unit: Unit, first: str, second: str) -> tuple[str, str]:
        question = unit.written(conversation=shown(messages_of(unit.column(self.of))), first=first, second=second)

        def accept(answer: Answer) -> str:
            return read_object(answer, SCHEMA)["better"]

        return await unit.ask(self.model, question, accept, schema=SCHEMA, sampling=self.sampling)
