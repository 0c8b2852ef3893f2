"""Frozen dataclasses that reject what they do not know, and say what they do know.

class Rope(Config):
    base: float = 10000.0

Rope(base=5.0); to_dict(Rope()); from_dict(Rope, {"base": 1}); build(Recipe, {"seed": 3}, ["rope.base=2"])
"""

import difflib
import functools
from collections.abc import Sequence
from types import UnionType
from typing import Any, TypeVar, Union, dataclass_transform, get_args, get_origin

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from pydantic.fields import FieldInfo

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


def from_dict(cls: type[C], values: Any) -> C:
    """Build a config from plain values as YAML or JSON give them; unknown keys are a `ConfigError`."""
    try:
        return _adapter(cls).validate_python(values, strict=False)
    except ValidationError as error:
        raise ConfigError(explain(cls, error)) from None


def to_dict(config: Config) -> dict[str, Any]:
    """Plain values (dict, list, str, number, bool, None), ready for YAML or JSON; inverse of `from_dict`."""
    return _adapter(type(config)).dump_python(config, mode="json")


def build(cls: type[C], values: dict[str, Any], assignments: Sequence[str] = ()) -> C:
    """`build(Recipe, {"seed": 3}, ["optim.lr=3e-4", "space.floors.mlp=0.5"])`: plain values first, then what people wrote.

    Settings of a nested config that are not given keep that field's default; an assignment into a dict keeps its other
    entries. A value is read as YAML; for a text field, or where it is no YAML, it is the text as it stands. The config is
    constructed once, at the end, so required fields may come from either side. Raises `ConfigError` for a name that does not
    exist and for a value that does not fit.
    """
    settings = _merged(cls, {}, values)
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError(f"A setting is written name=value; got '{assignment}'.")
        settings = _merged(cls, {}, _assigned(cls, cls.__name__, settings, name.split("."), text))
    return from_dict(cls, settings)


def explain(cls: type[Config], error: ValidationError) -> str:
    """The first problem of a pydantic error as one sentence."""
    problem = error.errors()[0]
    where = ".".join(map(str, (cls.__name__, *problem["loc"])))
    if problem["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        *path, name = map(str, problem["loc"])
        return _unknown(where.removesuffix(f".{name}"), name, _nested(cls, path))
    if problem["type"] in ("missing", "missing_keyword_only_argument"):
        config, _, name = where.rpartition(".")
        return f"{config} needs '{name}', which is missing."
    if problem["type"] == "value_error":  # a sentence raised by some `check`
        return problem["msg"].removeprefix("Value error, ")
    message = problem["msg"]
    found = repr(problem["input"])
    return f"{where}: {message[0].lower()}{message[1:]}; got {found if len(found) <= 200 else f'{found[:200]}...'}."


def _unknown(where: str, name: str, config: type[Config] | None) -> str:
    known = list(_fields(config)) if config else []
    close = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean '{close[0]}'?" if close else f" It has: {', '.join(known)}." if known else ""
    return f"{where} has no field '{name}'.{hint}"


@functools.cache
def _adapter(kind: Any) -> TypeAdapter:
    return TypeAdapter(kind)


def _fields(config: type[Config]) -> dict[str, FieldInfo]:
    return config.__pydantic_fields__  # type: ignore[attr-defined]


def _nested(config: type[Config] | None, path: list[str]) -> type[Config] | None:
    """The config that the fields of `path` lead to, if they all hold configs."""
    for name in path:
        field = _fields(config).get(name) if config else None
        config = _config(field.annotation) if field else None
    return config


def _kinds(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def _config(annotation: Any) -> type[Config] | None:
    """The one config that a field of this annotation may hold."""
    found = [kind for kind in _kinds(annotation) if isinstance(kind, type) and issubclass(kind, Config)]
    return found[0] if len(found) == 1 else None


def _default(field: FieldInfo) -> Any:
    """A field's default as plain values. A config made by its own class comes as {}: without its required fields it cannot be made."""
    if isinstance(field.default_factory, type) and issubclass(field.default_factory, Config):
        return {}
    if field.is_required():
        return None
    value = field.get_default(call_default_factory=True, validated_data={})
    return to_dict(value) if isinstance(value, Config) else value


def _merged(config: type[Config], base: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """`values` over `base`; nested configs are merged in turn, all else is replaced."""
    merged = {**base, **values}
    for name, field in _fields(config).items():
        inner, value = _config(field.annotation), values.get(name)
        if inner and isinstance(value, dict):
            merged[name] = _merged(inner, base.get(name, _default(field)) or {}, value)
    return merged


def _assigned(kind: Any, where: str, held: Any, path: list[str], text: str) -> Any:
    """What a setting of this kind holds, `held` before, once the part at `path` is what `text` says."""
    if not path:
        return _read(kind, text)
    name, *rest = path
    held = {} if held is None else held
    config = _config(kind)
    entries = next((get_args(each)[1] for each in _kinds(kind) if get_origin(each) is dict), None)
    if not isinstance(held, dict) or not (config or entries):
        raise ConfigError(f"{where} is a single value, so it has no part '{name}'; write {where.partition('.')[2]}=value.")
    if config and name not in _fields(config):
        raise ConfigError(_unknown(where, name, config))
    inner = _fields(config)[name].annotation if config else entries
    before = held[name] if name in held else _default(_fields(config)[name]) if config else None
    return {**held, name: _assigned(inner, f"{where}.{name}", before, rest, text)}


def _read(kind: Any, text: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):  # `*-M-` is an unknown alias, 2026-13-01 a date that is none
        return text
    if str not in _kinds(kind):
        return _number(value)
    return value if _fits(kind, value) else text


def _fits(kind: Any, value: Any) -> bool:
    try:
        _adapter(kind).validate_python(value)
    except ValidationError:
        return False
    return True


def _number(value: Any) -> Any:
    """YAML reads 3e-4 as text; people mean a number."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value
