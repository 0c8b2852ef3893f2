"""Dialogues: one model asks as a user, another answers, turn by turn."""

from typing import ClassVar, Literal

from pydantic import Field

from amaru.synth.call import Answer
from amaru.synth.conversation import messages_of, shown, without_politeness
from amaru.synth.endpoint import Sampling
from amaru.synth.steps.step import NAME, Asked, Done, Known, Making, adding
from amaru.synth.structured import Unusable, whole_text
from amaru.synth.unit import Message, Unit


class Dialogue(Making):
    """The request or conversation in column `of`, gone on with until it has `turns` turns of the user, in `column` as messages.

    model     answers
    user      asks as the user does, with `prompt`, which is given the conversation; what is polite and nothing else is taken off. `model`
              where it is left out
    last      assistant, or user: then nobody answers the last turn, which makes prompts of several turns
    """

    gives: ClassVar[frozenset[str]] = frozenset({"conversation"})

    kind: Literal["dialogue"]
    model: str
    user: str | None = None
    prompt: str = "next_turn"
    of: str = Field(default="prompt", pattern=NAME)
    column: str = Field(default="messages", pattern=NAME)
    turns: int = Field(default=3, ge=1)
    last: Literal["assistant", "user"] = "assistant"
    sampling: Sampling | None = None

    def prompts(self) -> dict[str, str]:
        return {"prompt": self.prompt}

    def asks(self) -> tuple[Asked, ...]:
        """For rows that begin with one turn."""
        answers = Asked(self.model, self.turns - (self.last == "user"), None, sampling=self.sampling)
        return answers, Asked(self.user or self.model, self.turns - 1, sampling=self.sampling)

    def needs(self) -> set[str]:
        return {self.of}

    def makes(self, has: Known) -> Known:
        return adding(has, self.column)

    async def make(self, unit: Unit) -> list[Done]:
        said, calls = messages_of(unit.column(self.of)), []
        while (role := self._next(said)) is not None:
            call, text = await (self._ask(unit, said) if role == "user" else self._answer(unit, said))
            said.append({"role": role, "content": text})
            calls.append(call)
        return [(unit.columns | {self.column: said}, tuple(calls))]

    def _next(self, said: list[Message]) -> Literal["user", "assistant"] | None:
        turns = sum(message["role"] == "user" for message in said)
        if said[-1]["role"] != "user":
            return "user" if turns < self.turns else None
        return None if turns >= self.turns and self.last == "user" else "assistant"

    async def _answer(self, unit: Unit, said: list[Message]) -> tuple[str, str]:
        return await unit.ask(self.model, said, whole_text, prompt=None, sampling=self.sampling)

    async def _ask(self, unit: Unit, said: list[Message]) -> tuple[str, str]:
        return await unit.ask(self.user or self.model, unit.written(conversation=shown(said)), _turn, sampling=self.sampling)


def _turn(answer: Answer) -> str:
    if not (text := without_politeness(whole_text(answer).removeprefix("User:"))):
        raise Unusable("the turn says nothing but courtesies")
    return text
