"""One step and one row: what the step works with, and the keys of the rows that come of it."""

import json

from amaru.config import fingerprint_bytes
from amaru.synth.client import Client
from amaru.synth.recipe import Bound
from amaru.synth.row import Made, Row
from amaru.synth.steps import Making
from amaru.synth.unit import Unit


class Maker:
    """`await Maker(bound, client).make(3, row)`: the rows that step 3 makes of one row.

    Raises `Dropped` for a row that is left out, `Failed` for one whose calls came to nothing, and `ConfigError` where the recipe does
    not fit its rows.
    """

    def __init__(self, bound: Bound, client: Client) -> None:
        self.bound = bound
        self.client = client

    async def make(self, number: int, row: Row) -> list[Made]:
        bound, step = self.bound, self.bound.recipe.steps[number]
        assert isinstance(step, Making)
        found = bound.found[number]
        work = Unit(step.name, row, bound.recipe.models, bound.prompts[number], bound.recipe.seed, self.client, found)
        done, unit = await step.make(work), bound.unit(number, row.key)
        return [Made(fingerprint_bytes(unit, str(index)), columns, calls) for index, (columns, calls) in enumerate(done)]


def seeds(bound: Bound, number: int) -> list[Made]:
    """The rows of a step that takes none, in their order; a row's key follows from what it says, so that more may be added later.

    Raises `DataError` for a file with records that are no objects, or with none.
    """
    name = bound.recipe.steps[number].name
    counted: dict[str, int] = {}
    found = []
    for row in bound.brought(number):
        text = json.dumps(row, sort_keys=True, ensure_ascii=False)
        counted[text] = counted.get(text, 0) + 1
        found.append(Made(fingerprint_bytes("seed", name, text, str(counted[text])), row))
    return found
