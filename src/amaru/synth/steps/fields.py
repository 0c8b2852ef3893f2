"""Objects that keep to a schema."""

from typing import Any, Literal

from amaru.errors import ConfigError
from amaru.synth.schema import check_schema
from amaru.synth.steps.step import Asked, Asking, Done, Known, adding
from amaru.synth.structured import read_object
from amaru.synth.unit import Unit


class Fields(Asking):
    """An object that keeps to a JSON schema; its properties become columns."""

    kind: Literal["object"]
    schema: dict[str, Any]

    def check(self) -> None:
        check_schema(self.schema, f"The schema of step {self.name}")
        if self.schema.get("type") != "object" or not self.schema.get("properties"):
            raise ConfigError(f"The schema of step {self.name} is of type object with properties, which become columns.")

    def asks(self) -> tuple[Asked, ...]:
        return (Asked(self.model, schema=self.schema, sampling=self.sampling),)

    def makes(self, has: Known) -> Known:
        return adding(has, *self.schema.get("required", ()))

    async def make(self, unit: Unit) -> list[Done]:
        def accept(answer: Any) -> dict[str, Any]:
            return read_object(answer, self.schema)

        call, values = await unit.ask(self.model, unit.written(), accept, schema=self.schema, sampling=self.sampling)
        return [(unit.columns | values, (call,))]
