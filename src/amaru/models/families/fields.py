"""Reading `config.json`: one field at a time, each checked before anything is made from it."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from amaru.errors import CheckpointError

LARGEST_JSON = 64 * 2**20  # bytes; the index of the largest published model is a few megabytes
LARGEST_WIDTH = 2**31 - 1
MOST_LAYERS = 10_000  # a config that says more is damaged or hostile, and would cost memory before any tensor is looked at


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; `CheckpointError` when it is missing, huge, or not one."""
    try:
        if path.exists() and not path.is_file():
            raise CheckpointError(f"{path} is no file.")  # a pipe would block, a device never end
        if path.stat().st_size > LARGEST_JSON:
            raise CheckpointError(f"{path} has {path.stat().st_size:,} bytes; at most {LARGEST_JSON:,} are read as JSON.")
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"There is no {path.name} in {path.parent}; a checkpoint is a directory with config.json and *.safetensors, "
            "which `amaru convert --to hf` makes of other formats."
        ) from None
    except (ValueError, RecursionError, NotADirectoryError) as error:  # ValueError: also a number of too many digits
        raise CheckpointError(f"{path} is not valid JSON: {error}.") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds a {type(values).__name__}; a JSON object is needed.")
    return values


class Fields:
    """`Fields(values).integer("hidden_size")`: fields of a `config.json`; of several names the first that is there.

    Every method raises `CheckpointError` naming the field, what was found and what is allowed; one without a default
    also when the field is missing.
    """

    def __init__(self, values: Mapping[str, Any], where: str = "config.json") -> None:
        self.values, self.where = values, where

    def integer(self, *names: str, default: int | None = None, most: int = LARGEST_WIDTH) -> int:
        """A positive whole number; null counts as missing, as transformers writes it for "follows from other fields"."""
        name, value = self._found(names, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= most:
            raise wrong(name, value, f"a whole number from 1 to {most} is needed", self.where)
        return value

    def number(self, *names: str, default: float | None = None) -> float:
        """A positive finite number; null is none."""
        name = next((name for name in names if name in self.values), None)
        name, value = (name, self.values[name]) if name else self._found(names, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= sys.float_info.max:
            raise wrong(name, value, "a positive number is needed", self.where)
        return float(value)

    def flag(self, name: str, default: bool = False) -> bool:
        value = self.values.get(name, default)
        if not isinstance(value, bool):
            raise wrong(name, value, "true or false is needed", self.where)
        return value

    def indices(self, name: str, below: int) -> list[int]:
        """A list of whole numbers from 0 to below `below`."""
        _, value = self._found((name,), None)
        if not isinstance(value, list) or not all(isinstance(each, int) and 0 <= each < below for each in value):
            raise wrong(name, value, f"a list of layers from 0 to {below - 1} is needed", self.where)
        return value

    def require(self, family: str, expected: Mapping[str, Any]) -> None:
        """Refuse a config that asks for a function the family here does not compute; a missing field asks for nothing."""
        for name, value in expected.items():
            if self.values.get(name, value) != value:
                raise wrong(name, self.values[name], f"amaru reads {family} with {json.dumps(value)} only", self.where)

    def _found(self, names: tuple[str, ...], default: Any) -> tuple[str, Any]:
        for name in names:
            if self.values.get(name) is not None:
                return name, self.values[name]
        if default is None:
            raise CheckpointError(f"{self.where} lacks {names[0]}.")
        return names[0], default


def wrong(name: str, value: Any, needed: str, where: str = "config.json") -> CheckpointError:
    """The sentence for a field that says something impossible."""
    return CheckpointError(f"{where} sets {name} to {json.dumps(value, default=str)[:80]}; {needed}.")
