"""Answers scored by a reward model behind HTTP, such as Nemotron-4-340B-Reward."""

from typing import Literal

from pydantic import Field

from amaru.synth.attributes import read_attributes, told
from amaru.synth.call import Answer
from amaru.synth.conversation import messages_of
from amaru.synth.endpoint import Sampling
from amaru.synth.steps.step import NAME, Asked, Done, Known, Making, adding
from amaru.synth.structured import Unusable
from amaru.synth.unit import Unit

HELPSTEER2 = {"helpfulness": 0.30, "correctness": 0.74, "coherence": 0.46, "complexity": 0.47, "verbosity": -0.33}
NO_TEXT = Sampling(max_tokens=16)  # nothing is written; a budget sets aside little


class Reward(Making):
    """The attributes that a reward model gives an answer, in `attributes`, and their sum by `weights`, in `column`; never rounded.

    of        the request or conversation that was answered
    answer    the answer; null where the conversation ends with it, as dialogues do
    weights   by which attributes are added up; the default is Nemotron-4-340B-Reward's
    """

    kind: Literal["reward"]
    model: str
    of: str = Field(default="prompt", pattern=NAME)
    answer: str | None = Field(default="answer", pattern=NAME)
    column: str = Field(default="score", pattern=NAME)
    weights: dict[str, float] = Field(default_factory=lambda: dict(HELPSTEER2), min_length=1)

    def asks(self) -> tuple[Asked, ...]:
        return (Asked(self.model, prompt=None, sampling=NO_TEXT),)

    def needs(self) -> set[str]:
        return {self.of, self.answer} if self.answer else {self.of}

    def makes(self, has: Known) -> Known:
        return adding(has, "attributes", self.column)

    async def make(self, unit: Unit) -> list[Done]:
        messages = messages_of(unit.column(self.of))
        if self.answer:
            messages.append({"role": "assistant", "content": unit.text(self.answer)})

        def accept(answer: Answer) -> dict[str, float]:
            attributes = told(answer)
            if missing := [name for name in self.weights if name not in attributes]:
                raise Unusable(f"the reward model tells no {', '.join(missing)}; it tells {', '.join(attributes)}")
            return attributes

        call, attributes = await unit.ask(self.model, messages, accept, prompt=None, sampling=NO_TEXT, read=read_attributes)
        score = sum(weight * attributes[name] for name, weight in self.weights.items())
        return [(unit.columns | {"attributes": attributes, self.column: score}, (call,))]
