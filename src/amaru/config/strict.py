"""Frozen dataclasses that reject what they do not know, and say what they do know.

@config
class Rope(Config):
    base: float = 10000.0

Rope(base=5.0); to_dict(Rope()); from_dict(Rope, {"base": 1}); override(recipe, ["rope.base=2"])
"""

import difflib
import functools
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, dataclass_transform

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from amaru.config.atomic import atomic_file
from amaru.errors import ConfigError


@dataclass_transform(kw_only_default=True, frozen_default=True)
class Config:
    """Base of every setting: subclassing makes a frozen, keyword-only, strictly checked dataclass.

    `check` is called after construction and raises `ConfigError` for fields that contradict each other;
    it never changes a field.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", strict=True))(cls)
        build = cls.__init__

        @functools.wraps(build)
        def init(self: Any, *args: Any, **values: Any) -> None:
            try:
                build(self, *args, **values)
            except ValidationError as error:
                raise ConfigError(explain(cls, error)) from None

        cls.__init__ = init

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Raise `ConfigError` when fields contradict each other."""


C = TypeVar("C", bound=Config)


def explain(cls: type, error: ValidationError) -> str:
    """The first problem of a pydantic error as one sentence."""
    problem = error.errors()[0]
    *path, name = [str(part) for part in problem["loc"]] or [cls.__name__]
    where = ".".join([cls.__name__, *path])
    if problem["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        known = [f.name for f in fields(cls)] if is_dataclass(cls) and not path else []
        close = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean '{close[0]}'?" if close else f" It has: {', '.join(known)}." if known else ""
        return f"{where} has no field '{name}'.{hint}"
    if problem["type"] in ("missing", "missing_keyword_only_argument"):
        return f"{where} needs '{name}', which is missing."
    if problem["type"] == "value_error":  # a sentence raised by some `check`
        return problem["msg"].removeprefix("Value error, ")
    message = problem["msg"]
    return f"{where}.{name}: {message[0].lower()}{message[1:]}; got {problem['input']!r}."


@functools.cache
def _adapter(cls: type) -> TypeAdapter:
    return TypeAdapter(cls)


def from_dict(cls: type[C], values: Any) -> C:
    """Build a config from plain values as YAML or JSON give them; unknown keys are a `ConfigError`."""
    try:
        return _adapter(cls).validate_python(values, strict=False)
    except ValidationError as error:
        raise ConfigError(explain(cls, error)) from None


def to_dict(config: Config) -> dict[str, Any]:
    """Plain values (dict, list, str, number, bool, None), ready for YAML or JSON; inverse of `from_dict`."""
    return _adapter(type(config)).dump_python(config, mode="json")


def load_yaml(cls: type[C], path: str | Path) -> C:
    try:
        return from_dict(cls, yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {})
    except FileNotFoundError:
        raise ConfigError(f"There is no recipe file {path}.") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}.") from None


def save_yaml(config: Config, path: str | Path) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text(yaml.safe_dump(to_dict(config), sort_keys=False), encoding="utf-8")


def override(config: C, assignments: list[str]) -> C:
    """`override(recipe, ["optim.lr=3e-4"])`: a copy with dotted fields replaced; values are read as YAML."""
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError(f"An override is written name=value; got '{assignment}'.")
        config = _replaced(config, name.split("."), _number(yaml.safe_load(text)))
    return config


def _replaced(config: C, path: list[str], value: Any) -> C:
    head, *rest = path
    known = [f.name for f in fields(config)]  # type: ignore[arg-type]
    if head not in known:
        close = difflib.get_close_matches(head, known, n=1)
        hint = f"Did you mean '{close[0]}'?" if close else f"It has: {', '.join(known)}."
        raise ConfigError(f"{type(config).__name__} has no field '{head}'. {hint}")
    if rest:
        return replace(config, **{head: _replaced(getattr(config, head), rest, value)})  # type: ignore[type-var]
    return from_dict(type(config), to_dict(config) | {head: value})


def _number(value: Any) -> Any:
    """YAML reads 3e-4 as text; people mean a number."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value
