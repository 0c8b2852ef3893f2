"""From flags, a YAML file and `--set` to one frozen recipe."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

from amaru.config import Config, from_dict, override
from amaru.errors import ConfigError

C = TypeVar("C", bound=Config)
UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}


def build_recipe(kind: type[C], file: Path | None, given: Mapping[str, Any], settings: list[str]) -> C:
    """`build_recipe(TrainRecipe, None, {"text.data": ("a.txt",), "lr": None}, ["shape.ffn=512"])`; None is not given."""
    values = _read(file) if file else {}
    for name, value in given.items():
        if value is not None:
            _place(values, name.split("."), value)
    return override(from_dict(kind, values), settings)


def count(flag: str, text: str) -> int:
    """`count("--tokens", "2M") == 2_000_000`; raises `ConfigError` for anything but a positive number with k, M or B."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?(?:e\d+)?)([kmb]?)", text.replace("_", "").replace(",", "").lower())
    value = round(float(found[1]) * UNITS[found[2]]) if found else 0
    if value < 1:
        raise ConfigError(f"{flag} is a positive number such as 300000, 300k or 2M; got '{text}'.")
    return value


def _read(file: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        raise ConfigError(f"There is no recipe file {file}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not valid YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{file} holds a {type(values).__name__}; a recipe is a mapping of settings.")
    return values


def _place(values: dict[str, Any], path: list[str], value: Any) -> None:
    *folders, leaf = path
    for folder in folders:
        values = values.setdefault(folder, {})
    values[leaf] = value
