"""What each kind of step makes of one row: the calls it needs, and the rows that come of their answers."""

import asyncio
import json
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from amaru.config import fingerprint_bytes
from amaru.data.contamination import texts
from amaru.data.files import Piece, Problem, objects
from amaru.errors import ConfigError, DataError
from amaru.synth.call import Answer, Call
from amaru.synth.client import Client
from amaru.synth.recipe import Bound
from amaru.synth.schema import list_schema
from amaru.synth.steps import Asking, Columns, Decontaminate, Fields, Filter, Listed, Python, Seeds, Text
from amaru.synth.store import Made, Matched
from amaru.synth.structured import read_list, read_object, whole_text

T = TypeVar("T")


@dataclass(frozen=True)
class Row:
    """A row on its way. `place` orders all rows as the recipe does, whichever came first: of each step its number and that of the row."""

    place: tuple[int, ...]
    key: str
    columns: dict[str, Any]


START = Row((), "start", {})


class Dropped(Exception):
    """A row that is left out, and why; `matched` is what it has in common with something else."""

    def __init__(self, reason: str, matched: Matched | None = None) -> None:
        super().__init__(reason)
        self.matched = matched


class Maker:
    """`await Maker(bound, client).make(3, row)`: the rows that step 3 makes of one row.

    Raises `Dropped` for a row that is left out, `Failed` for one whose calls came to nothing, and `ConfigError` where the recipe does
    not fit its rows.
    """

    def __init__(self, bound: Bound, client: Client) -> None:
        self.bound = bound
        self.client = client

    async def make(self, number: int, row: Row) -> list[Made]:
        step, unit = self.bound.recipe.steps[number], self.bound.unit(number, row.key)
        match step:
            case Text():
                answers = [self._ask(number, row, {}, None, whole_text, sample) for sample in range(step.samples)]
                found = [(row.columns | {step.column: text}, (call,)) for call, text in await asyncio.gather(*answers)]
            case Listed():
                given = {"count": step.count}
                call, items = await self._ask(number, row, given, list_schema(step.count), lambda answer: read_list(answer, step.count))
                found = [(row.columns | {step.column: item}, (call,)) for item in items]
            case Fields():
                call, values = await self._ask(number, row, {}, step.schema, lambda answer: read_object(answer, step.schema))
                found = [(row.columns | values, (call,))]
            case Columns():
                found = [(self._columns(number, step, row), ())]
            case Filter():
                if not self.bound.filters[number].value(row.columns):
                    raise Dropped(f"not: {step.where}")
                found = [(row.columns, ())]
            case Decontaminate():
                self._look_for_items(number, step, row)
                found = [(row.columns, ())]
            case Python():
                found = [(columns, ()) for columns in await self._function(number, step, row)]
            case _:
                raise AssertionError(f"rows of {step.kind} are not made one by one")
        return [Made(fingerprint_bytes(unit, str(index)), columns, calls) for index, (columns, calls) in enumerate(found)]

    async def _ask(
        self,
        number: int,
        row: Row,
        given: Mapping[str, Any],
        schema: Mapping[str, Any] | None,
        accept: Callable[[Answer], T],
        sample: int = 0,
    ) -> tuple[str, T]:
        step = self.bound.recipe.steps[number]
        assert isinstance(step, Asking)
        endpoint, prompt = self.bound.recipe.models[step.model], self.bound.prompts[number]
        question = {"role": "user", "content": prompt.render({**row.columns, **given}) + _wanted(schema)}
        system = [{"role": "system", "content": endpoint.system}] if endpoint.system else []
        call = Call(
            endpoint=endpoint.url,
            model=endpoint.model,
            messages=(*system, question),
            sampling=self.bound.sampling(number).sent,
            schema=schema,
            template=prompt.version,
            sample=sample,
        )
        return call.key, await self.client.ask(endpoint, call, step.name, accept)

    def _columns(self, number: int, step: Columns, row: Row) -> dict[str, Any]:
        chosen = {
            name: random.Random(fingerprint_bytes(str(self.bound.recipe.seed), step.name, name, row.key)).choice(among)
            for name, among in step.choose.items()
        }
        columns = {**row.columns, **chosen}
        columns |= {name: expression.value(columns) for name, expression in self.bound.computed[number].items()}
        return columns | {name: template.render(columns) for name, template in self.bound.templates[number].items()}

    def _look_for_items(self, number: int, step: Decontaminate, row: Row) -> None:
        if missing := [name for name in step.columns if name not in row.columns]:
            raise ConfigError(f"Step {step.name} looks in column {missing[0]}; the row has {', '.join(row.columns)}.")
        for text in texts([row.columns[name] for name in step.columns]):
            if found := self.bound.evaluations[number].find(text):
                name = found.item.rpartition(":")[0]
                raise Dropped(f"has words of {name}", Matched(found.item, words=found.words))

    async def _function(self, number: int, step: Python, row: Row) -> Iterable[dict[str, Any]]:
        try:
            made = await asyncio.to_thread(self.bound.functions[number], dict(row.columns))
            json.dumps(made)
        except Exception as error:
            raise ConfigError(f"{step.function} in step {step.name} ended in {type(error).__name__}: {error}.") from error
        made = [made] if isinstance(made, dict) else made
        if not made:
            raise Dropped(f"{step.function} gave nothing")
        return made


def seeds(bound: Bound, number: int) -> list[Made]:
    """The rows of a step of seeds, in their order; a row's key follows from what it says, so that more may be added later.

    Raises `DataError` for a file with records that are no objects, or with none.
    """
    step = bound.recipe.steps[number]
    assert isinstance(step, Seeds)
    rows = list(step.rows) if step.file is None else _read(bound, step.file)
    counted: dict[str, int] = {}
    found = []
    for row in rows:
        text = json.dumps(row, sort_keys=True, ensure_ascii=False)
        counted[text] = counted.get(text, 0) + 1
        found.append(Made(fingerprint_bytes("seed", step.name, text, str(counted[text])), row))
    return found


def placed(number: int, parent: Row, made: Iterable[Made]) -> list[Row]:
    return [Row((*parent.place, number, index), each.key, each.columns) for index, each in enumerate(made)]


def _read(bound: Bound, file: str) -> list[dict[str, Any]]:
    path = bound.directory / file
    if not path.is_file():
        raise DataError(f"There is no file {path}.")
    found = []
    for _, record in objects(Piece(str(path))):
        if isinstance(record, Problem):
            raise DataError(record.sentence)
        found.append(record)
    if not found:
        raise DataError(f"{path} holds no rows.")
    return found


def _wanted(schema: Mapping[str, Any] | None) -> str:
    """What is said of the form, to servers that keep to it and to those that do not alike: a call is one call wherever it goes."""
    return f"\n\nAnswer with one JSON object of this schema and nothing else:\n{json.dumps(schema)}" if schema else ""
