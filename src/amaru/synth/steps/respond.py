"""Answers to requests and conversations, by one model or several."""

from collections.abc import Iterable
from typing import ClassVar, Literal

from pydantic import Field

from amaru.errors import ConfigError
from amaru.synth.conversation import messages_of
from amaru.synth.endpoint import Sampling
from amaru.synth.steps.step import NAME, Asked, Differing, Done, Known, Making, adding
from amaru.synth.structured import whole_text
from amaru.synth.unit import Unit


class Respond(Making):
    """Each of `models` answers the request or conversation in column `of`; each answer is a row with `column` and `answered_by`.

    samples   answers of each model
    pick      so many of the models, drawn for each row, instead of all
    """

    draws: ClassVar[bool] = True

    kind: Literal["respond"]
    models: tuple[str, ...] = Field(min_length=1)
    of: str = Field(default="prompt", pattern=NAME)
    column: str = Field(default="answer", pattern=NAME)
    samples: int = Field(default=1, ge=1)
    pick: int | None = Field(default=None, ge=1)
    sampling: Sampling | None = None

    def check(self) -> None:
        if len(set(self.models)) < len(self.models):
            raise ConfigError(f"Step {self.name} names a model twice; for several answers of one give samples.")
        if self.pick and self.pick >= len(self.models):
            raise ConfigError(f"Step {self.name} picks {self.pick} of {len(self.models)} models; leave pick out for all of them.")

    def asks(self) -> tuple[Asked, ...]:
        return tuple(Asked(model, self.samples, None, sampling=self.sampling) for model in self.models)

    def calls(self, taken: int) -> Iterable[Asked]:
        """With `pick`, as evenly over the models as whole numbers can be."""
        every, many = self.rows_of(taken, {}), len(self.models)
        for number, asked in enumerate(self.asks()):
            yield asked._replace(times=every * (number + 1) // many - every * number // many)

    def needs(self) -> set[str]:
        return {self.of}

    def makes(self, has: Known) -> Known:
        return adding(has, self.column, "answered_by")

    def rows_of(self, taken: int, differing: Differing) -> int:
        return taken * (self.pick or len(self.models)) * self.samples

    async def make(self, unit: Unit) -> list[Done]:
        messages = messages_of(unit.column(self.of))
        drawn = unit.random().sample(self.models, self.pick) if self.pick else self.models
        asking = [(model, sample) for model in self.models if model in drawn for sample in range(self.samples)]
        answers = await unit.all(
            unit.ask(model, messages, whole_text, prompt=None, sampling=self.sampling, sample=sample) for model, sample in asking
        )
        return [
            (unit.columns | {self.column: text, "answered_by": model}, (call,))
            for (model, _), (call, text) in zip(asking, answers, strict=True)
        ]
