"""Requests with random instructions that a program can check, which stay in the row."""

from typing import ClassVar, Literal

from pydantic import Field

from amaru.errors import ConfigError
from amaru.instructions import KINDS, asked, asked_from_now_on, asked_to_revise, draw, record_of
from amaru.synth.conversation import messages_of
from amaru.synth.steps.step import NAME, Done, Known, Making, adding
from amaru.synth.unit import Message, Unit

SEEDS = 2**31


class Constrain(Making):
    """The request in column `of` with verifiable instructions, in `column`; what they are in `instruction_id_list` and `kwargs`, as IFEval
    has them, which steps of kind verify read.

    turn      single: behind or before the request, a text
              later: said before it for all later answers, a conversation, which a dialogue can go on with
              revise: a second turn, which wants the answer in column `answer` again, a conversation
    counts    how many instructions: one of these numbers is drawn for each row
    kinds     what is drawn from
    """

    draws: ClassVar[bool] = True

    kind: Literal["constrain"]
    of: str = Field(default="prompt", pattern=NAME)
    column: str = Field(default="prompt", pattern=NAME)
    answer: str = Field(default="answer", pattern=NAME)
    turn: Literal["single", "later", "revise"] = "single"
    counts: tuple[int, ...] = Field(default=(1,), min_length=1)
    kinds: tuple[str, ...] = KINDS

    def check(self) -> None:
        if min(self.counts) < 1 or not draw(0, 1, kinds=self.kinds, prompt="" if self.turn == "single" else None):
            raise ConfigError(f"Step {self.name} draws no instruction: counts are from 1, and repeating the request is of single turns.")

    def needs(self) -> set[str]:
        return {self.of, self.answer} if self.turn == "revise" else {self.of}

    def makes(self, has: Known) -> Known:
        return adding(has, self.column, "instruction_id_list", "kwargs")

    async def make(self, unit: Unit) -> list[Done]:
        before = messages_of(unit.column(self.of))
        if before[-1]["role"] != "user":
            raise ConfigError(f"Step {self.name} needs a request; the conversation in column {self.of} ends with {before[-1]['role']}.")
        generator = unit.random()
        seed, count = generator.randrange(SEEDS), generator.choice(self.counts)
        request = before[-1]["content"]
        instructions = draw(seed, count, kinds=self.kinds, prompt=request if self.turn == "single" else None)
        checked = {name: value for name, value in record_of(request, instructions).items() if name != "prompt"}
        said = self._said(unit, before, request, [each.sentence for each in instructions], seed)
        return [(unit.columns | checked | {self.column: said}, ())]

    def _said(self, unit: Unit, before: list[Message], request: str, sentences: list[str], seed: int) -> str | list[Message]:
        if self.turn == "single":
            last = asked(request, sentences, seed)
            return last if len(before) == 1 else [*before[:-1], {"role": "user", "content": last}]
        if self.turn == "later":
            return [*before[:-1], {"role": "user", "content": f"{asked_from_now_on(sentences, seed)}\n\n{request}"}]
        answer = {"role": "assistant", "content": unit.text(self.answer)}
        return [*before, answer, {"role": "user", "content": asked_to_revise(sentences, seed)}]
