"""Answers checked by a program: by the instructions in their row, by a known result, or by tests."""

import asyncio
from typing import Any, Literal

from pydantic import Field

from amaru import sandbox
from amaru.errors import ConfigError
from amaru.instructions import comes_to, follows, instructions_of
from amaru.synth.conversation import messages_of
from amaru.synth.steps.step import NAME, Done, Known, Making, adding
from amaru.synth.unit import Unit


class Verify(Making):
    """Whether the answer is right, as true or false in `column`; null in a row that says nothing to check it by.

    by        instructions: all those of the row are followed (steps of kind constrain); of a conversation, by every answer in it
              result: its result (boxed, behind ####, else its last number or words) is that in column `expected`
              program: the program in it runs in a sandbox together with the tests in column `expected`, within `seconds`
    """

    kind: Literal["verify"]
    by: Literal["instructions", "result", "program"]
    answer: str = Field(default="answer", pattern=NAME)
    expected: str = Field(default="expected", pattern=NAME)
    column: str = Field(default="verified", pattern=NAME)
    seconds: int = Field(default=10, ge=1)

    def needs(self) -> set[str]:
        return {self.answer}

    def makes(self, has: Known) -> Known:
        return adding(has, self.column)

    async def make(self, unit: Unit) -> list[Done]:
        return [(unit.columns | {self.column: await self._verdict(unit)}, ())]

    async def _verdict(self, unit: Unit) -> bool | None:
        if self.by == "instructions":
            return _followed(unit, unit.column(self.answer)) if unit.columns.get("instruction_id_list") else None
        if (expected := unit.columns.get(self.expected)) is None:
            return None
        if self.by == "result":
            return comes_to(unit.text(self.answer), str(expected))
        program = sandbox.program_in(unit.text(self.answer))
        return program is not None and (await asyncio.to_thread(sandbox.run, f"{program}\n\n{expected}\n", self.seconds)).passed


def _followed(unit: Unit, answer: Any) -> bool:
    said = [answer] if isinstance(answer, str) else [each["content"] for each in messages_of(answer) if each["role"] == "assistant"]
    try:
        instructions = instructions_of(unit.columns)
        return bool(said) and all(follows(text, instructions) for text in said)
    except ValueError as error:  # rows of people may hold anything there
        raise ConfigError(f"The instructions of a row in step {unit.step} cannot be checked: {error}.") from None
