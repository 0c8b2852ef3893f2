"""What a recipe is made of: steps, each of which turns one row into none, one or several, and how they are joined."""

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from amaru.config import Config
from amaru.errors import ConfigError
from amaru.synth.endpoint import Sampling
from amaru.synth.prompt import Expression
from amaru.synth.schema import check_schema

NAME = r"^[a-z][a-z0-9_]*$"


class Joined(Config):
    """What every step has: a name, and the steps whose rows it takes. None is the step before; the first takes one row without columns."""

    name: str = Field(pattern=NAME)
    after: tuple[str, ...] | None = None


class Seeds(Joined):
    """Rows that people bring: written in the recipe, or objects of a .jsonl file."""

    kind: Literal["seeds"]
    rows: tuple[dict[str, Any], ...] = ()
    file: str | None = None

    def check(self) -> None:
        if bool(self.rows) == bool(self.file):
            raise ConfigError(f"Step {self.name} has either rows or a file of them.")


class Asking(Joined):
    """What steps that ask a model have: which, by which prompt, sampled how."""

    model: str
    prompt: str
    sampling: Sampling | None = None


class Text(Asking):
    """An answer in free text becomes a column; `samples` answers become so many rows."""

    kind: Literal["text"]
    column: str = Field(pattern=NAME)
    samples: int = Field(default=1, ge=1)


class Listed(Asking):
    """Exactly `count` different items are asked for; each becomes a row of its own. The prompt is given `count`."""

    kind: Literal["list"]
    column: str = Field(pattern=NAME)
    count: int = Field(ge=1)


class Fields(Asking):
    """An object that keeps to a JSON schema; its properties become columns."""

    kind: Literal["object"]
    schema: dict[str, Any]

    def check(self) -> None:
        check_schema(self.schema, f"The schema of step {self.name}")
        if self.schema.get("type") != "object" or not self.schema.get("properties"):
            raise ConfigError(f"The schema of step {self.name} is of type object with properties, which become columns.")


class Columns(Joined):
    """Columns without a model: `choose` at random (by the recipe's seed and the row), then `compute` by a jinja expression, whose value
    may be a number, then `set` to a text by a jinja template.
    """

    kind: Literal["columns"]
    set: dict[str, str] = Field(default_factory=dict)
    compute: dict[str, str] = Field(default_factory=dict)
    choose: dict[str, tuple[Any, ...]] = Field(default_factory=dict)

    def check(self) -> None:
        if not (self.set or self.compute or self.choose) or any(not among for among in self.choose.values()):
            raise ConfigError(f"Step {self.name} has columns to set or compute, or to choose from at least one value.")


class Filter(Joined):
    """Rows for which a jinja expression is true go on."""

    kind: Literal["filter"]
    where: str

    def check(self) -> None:
        Expression(self.where)


class Unique(Joined):
    """Of rows with equal text in a column (but for case and blanks) the first goes on, in the order of the recipe, whatever came first.

    near    rows whose texts are this similar are left out too: the share of runs of five characters (of those in either) that both have
    bands   of MinHash, by which near rows are found; more of them miss fewer (`amaru.data.near_duplicates`)
    """

    kind: Literal["unique"]
    column: str = Field(pattern=NAME)
    near: float | None = Field(default=None, gt=0, lt=1)
    bands: Literal[8, 16, 32, 64] = 32


class Decontaminate(Joined):
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


class Pairs(Joined):
    """Of each prompt the best and the worst answer by a score, as columns prompt, chosen_response, rejected_response, chosen_reward and
    rejected_reward. A prompt whose answers are all as good as each other, or closer than `least_gap`, makes no pair.
    """

    kind: Literal["pairs"]
    prompt: str = Field(default="prompt", pattern=NAME)
    answer: str = Field(default="answer", pattern=NAME)
    score: str = Field(default="score", pattern=NAME)
    least_gap: float = Field(default=0.0, ge=0)


class Python(Joined):
    """A function of your own, `rows.py:shorten` beside the recipe or `package.module:name`: a dict in, a dict, a list of them or None out.

    `version` is part of what its results are known by: change it when the function changes.
    """

    kind: Literal["python"]
    function: str = Field(pattern=r"^[\w./-]+:\w+$")
    version: int = 1

    def load(self, directory: Path) -> Callable[[dict[str, Any]], Any]:
        """Raises `ConfigError` when there is no such function."""
        place, _, name = self.function.partition(":")
        try:
            if not place.endswith(".py"):
                return getattr(importlib.import_module(place), name)
            spec = importlib.util.spec_from_file_location(Path(place).stem, directory / place)
            assert spec and spec.loader
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            return getattr(module, name)
        except (ImportError, FileNotFoundError, AttributeError) as error:
            raise ConfigError(f"Step {self.name} has no function {self.function}: {error}.") from None


Step = Annotated[Seeds | Text | Listed | Fields | Columns | Filter | Unique | Decontaminate | Pairs | Python, Field(discriminator="kind")]
