"""Functions of one's own."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from amaru.config.functions import function_named
from amaru.errors import ConfigError
from amaru.synth.row import Dropped
from amaru.synth.steps.step import Done, Known, Making
from amaru.synth.unit import Unit


class Python(Making):
    """A function of your own, `rows.py:shorten` beside the recipe or `package.module:name`: a dict in, a dict, a list of them or None out.

    `version` is part of what its results are known by: change it when the function changes.
    """

    kind: Literal["python"]
    function: str = Field(pattern=r"^[\w./-]+:\w+$")
    version: int = 1

    def makes(self, has: Known) -> Known:
        return None

    def find(self, directory: Path) -> Callable[[dict[str, Any]], Any]:
        """Raises `ConfigError` when there is no such function."""
        try:
            return function_named(self.function, directory)
        except ConfigError as error:
            raise ConfigError(f"Step {self.name}: {error}") from error

    async def make(self, unit: Unit) -> list[Done]:
        try:
            made = await asyncio.to_thread(unit.found, dict(unit.columns))
            json.dumps(made)
        except Exception as error:
            raise ConfigError(f"{self.function} in step {self.name} ended in {type(error).__name__}: {error}.") from error
        made = [made] if isinstance(made, dict) else made or []
        if not isinstance(made, list | tuple) or not all(isinstance(each, dict) for each in made):
            raise ConfigError(f"{self.function} in step {self.name} gave {str(made)[:80]}; a dict, a list of them or None is a row's.")
        if not made:
            raise Dropped(f"{self.function} gave nothing")
        return [(columns, ()) for columns in made]
