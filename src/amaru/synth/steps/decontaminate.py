"""Rows left out that have words of evaluation sets in them."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from amaru.config import fingerprint_file
from amaru.data.contamination import Contamination, texts
from amaru.synth.row import Dropped, Matched
from amaru.synth.steps.step import Done, Making
from amaru.synth.unit import Unit


class Decontaminate(Making):
    """Rows go on that share no run of words with an item of the evaluation sets in `against`, which are files beside the recipe.

    columns   in which is looked
    fields    of the items that are looked for; all of them when none is named
    run       how many words in a row; an item of fewer is looked for as a whole
    """

    kind: Literal["decontaminate"]
    columns: tuple[str, ...] = Field(min_length=1)
    against: tuple[str, ...] = Field(min_length=1)
    fields: tuple[str, ...] = ()
    run: int = Field(default=13, ge=5)

    def needs(self) -> set[str]:
        return set(self.columns)

    def find(self, directory: Path) -> Contamination:
        return Contamination([directory / file for file in self.against], self.run, self.fields)

    def decided_by(self, directory: Path) -> list[str]:
        return [fingerprint_file(directory / file) for file in self.against]

    async def make(self, unit: Unit) -> list[Done]:
        for text in texts([unit.column(name) for name in self.columns]):
            if found := unit.found.find(text):
                name = found.item.rpartition(":")[0]
                raise Dropped(f"has words of {name}", Matched(found.item, words=found.words))
        return [(unit.columns, ())]
