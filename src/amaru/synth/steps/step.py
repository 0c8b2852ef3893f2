"""What all steps are: a name, the steps whose rows they take, and what can be told of them before anything is asked."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

from pydantic import Field

from amaru.config import Config
from amaru.errors import ConfigError
from amaru.synth.endpoint import Sampling
from amaru.synth.row import LeftOut, Row
from amaru.synth.unit import Unit

NAME = r"^[a-z][a-z0-9_]*$"
Known = set[str] | None  # columns that all rows have; None where only the rows themselves can tell
Differing = Mapping[str, int]  # of each column how many different values it has at most
Done = tuple[dict[str, Any], tuple[str, ...]]  # the columns of a row, and the keys of the calls whose answers are in it


class Asked(NamedTuple):
    """So many calls to a model, by the prompt of that name (None: by what the row brings)."""

    model: str
    times: int = 1
    prompt: str | None = "prompt"
    schema: Mapping[str, Any] | None = None
    sampling: Sampling | None = None


class Joined(Config):
    """What every step has: a name, and the steps whose rows it takes. None is the step before; the first takes one row without columns.

    gives  what its prompts are given besides the columns
    draws  what it makes follows from the recipe's seed too
    """

    gives: ClassVar[frozenset[str]] = frozenset()
    draws: ClassVar[bool] = False

    name: str = Field(pattern=NAME)
    after: tuple[str, ...] | None = None

    def asks(self) -> tuple[Asked, ...]:
        """The calls that one row takes, at most."""
        return ()

    def calls(self, taken: int) -> Iterable[Asked]:
        """The calls that so many rows take, at most."""
        return (asked._replace(times=asked.times * taken) for asked in self.asks())

    def prompts(self) -> dict[str, str]:
        """Its prompts as the recipe names them, by the names under which it uses them."""
        return {}

    def needs(self) -> set[str]:
        """The columns that it reads besides those of its prompts."""
        return set()

    def makes(self, has: Known) -> Known:
        """The columns that all rows it makes have, of rows that have those."""
        return has

    def rows_of(self, taken: int, differing: Differing) -> int:
        """How many rows it makes of so many, at most, with so many different values in their columns."""
        return taken

    def find(self, directory: Path) -> Any:
        """What it names besides prompts, found beside the recipe."""
        return None

    def decided_by(self, directory: Path) -> list[str]:
        """What decides its rows besides its settings, prompts and models: hashes of files."""
        return []


class Making(Joined, ABC):
    """A step that makes rows of one row."""

    @abstractmethod
    async def make(self, unit: Unit) -> list[Done]:
        """Raises `Dropped` for a row that is left out, `Failed` for one whose calls came to nothing."""


class Asking(Making):
    """What steps that ask one model have: which, by which prompt, sampled how."""

    model: str
    prompt: str
    sampling: Sampling | None = None

    def prompts(self) -> dict[str, str]:
        return {"prompt": self.prompt}


class Starting(Joined, ABC):
    """A step that takes no rows: people bring them."""

    def check(self) -> None:
        if self.after:
            raise ConfigError(f"Step {self.name} brings rows of its own, so it comes after nothing; leave 'after' out.")

    @abstractmethod
    def taking(self, file: str) -> Self:
        """The same step with rows from another file."""

    @abstractmethod
    def rows_from(self, directory: Path) -> list[dict[str, Any]]:
        """Raises `DataError` for a file that cannot be read."""


class Stands(NamedTuple):
    """A row that goes on: the one that it stands for, the keys of others that are in it too, and its columns."""

    parent: Row
    others: tuple[str, ...]
    columns: dict[str, Any]


class Gathering(Joined, ABC):
    """A step that looks at all its rows at once."""

    @abstractmethod
    def gather(self, rows: list[Row], left_out: list[LeftOut]) -> Iterable[Stands]:
        """Of rows in the order of the recipe those that go on; the others are told with their reasons."""


def complete(rows: Iterable[Row], left_out: list[LeftOut], *columns: str) -> list[Row]:
    """The rows that say something in all of these columns; the others are left out."""
    found = []
    for row in rows:
        if missing := [name for name in columns if row.columns.get(name) is None]:
            left_out.append(LeftOut(row, f"no column {missing[0]}"))
        else:
            found.append(row)
    return found


def adding(has: Known, *columns: str) -> Known:
    return None if has is None else has | set(columns)
