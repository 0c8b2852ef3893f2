"""Columns without a model."""

from functools import cached_property
from typing import Any, ClassVar, Literal

from pydantic import Field

from amaru.errors import ConfigError
from amaru.synth.prompt import Expression, Prompt
from amaru.synth.steps.step import Done, Known, Making, adding
from amaru.synth.unit import Unit


class Columns(Making):
    """Columns without a model: `choose` at random (by the recipe's seed and the row), then `compute` by a jinja expression, whose value
    may be a number, then `set` to a text by a jinja template.
    """

    draws: ClassVar[bool] = True

    kind: Literal["columns"]
    set: dict[str, str] = Field(default_factory=dict)
    compute: dict[str, str] = Field(default_factory=dict)
    choose: dict[str, tuple[Any, ...]] = Field(default_factory=dict)

    def check(self) -> None:
        if not (self.set or self.compute or self.choose) or any(not among for among in self.choose.values()):
            raise ConfigError(f"Step {self.name} has columns to set or compute, or to choose from at least one value.")
        _ = self._templates, self._expressions

    def makes(self, has: Known) -> Known:
        return adding(has, *self.choose, *self.compute, *self.set)

    async def make(self, unit: Unit) -> list[Done]:
        columns = unit.columns | {name: unit.random(name).choice(among) for name, among in self.choose.items()}
        columns |= {name: expression.value(columns) for name, expression in self._expressions.items()}
        return [(columns | {name: template.render(columns) for name, template in self._templates.items()}, ())]

    @cached_property
    def _templates(self) -> dict[str, Prompt]:
        return {name: Prompt(f"{self.name}.{name}", text) for name, text in self.set.items()}

    @cached_property
    def _expressions(self) -> dict[str, Expression]:
        return {name: Expression(text) for name, text in self.compute.items()}
