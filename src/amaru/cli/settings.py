"""From flags, a YAML file and `--set` to one frozen recipe."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from rich.console import Console

from amaru.config import Config
from amaru.config.strict import build
from amaru.config.units import parse_count
from amaru.errors import ConfigError

C = TypeVar("C", bound=Config)


def build_recipe(kind: type[C], file: Path | None, given: Mapping[str, Any], settings: list[str]) -> C:
    """`build_recipe(TrainRecipe, None, {"text.data": ("a.txt",), "lr": None}, ["shape.ffn=512"])`; None is not given."""
    values = _read(file) if file else {}
    for name, value in given.items():
        if value is not None:
            _place(values, name.split("."), value)
    return build(kind, values, settings)


def count(flag: str, text: str | None) -> int | None:
    """`count("--tokens", "2M") == 2_000_000`; None when the flag is not given. Raises `ConfigError` naming the flag."""
    try:
        return None if text is None else parse_count(text)
    except ConfigError as error:
        raise ConfigError(f"{flag}: {error}") from None


def in_precision(name: str | None, settings: list[str]) -> dict[str, Any]:
    """What --precision bf16, fp32 or fp8 sets."""
    if name not in (None, "bf16", "fp32", "fp8"):
        raise ConfigError(f"--precision is bf16, fp32 or fp8; got '{name}'.")
    if name in ("bf16", "fp32") and any(setting.startswith("fp8") for setting in settings):
        raise ConfigError(f"Settings of fp8 have no effect with --precision {name}; leave them out, or give --precision fp8.")
    return {"learning.dtype": "bf16" if name == "fp8" else name, "fp8": {} if name == "fp8" else None}


def print_forecast(facts: Mapping[str, Any], console: Console) -> None:
    """A dry run for people: YAML that `--recipe` reads back."""
    console.print(yaml.safe_dump(dict(facts), sort_keys=False, allow_unicode=True).rstrip(), soft_wrap=True)


def _read(file: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        raise ConfigError(f"There is no recipe file {file}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not valid YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{file} holds a {type(values).__name__}; a recipe is a mapping of settings.")
    return values.get("recipe", values)  # what --dry-run prints is read back


def _place(values: dict[str, Any], path: list[str], value: Any) -> None:
    *folders, leaf = path
    for folder in folders:
        values = values.setdefault(folder, {})
    values[leaf] = value
