"""The part of JSON schema that describes what steps ask for: which values fit, and what is wrong with those that do not."""

from collections.abc import Callable, Mapping
from typing import Any

from amaru.errors import ConfigError

KINDS: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}
KNOWN = {
    "type", "properties", "required", "additionalProperties", "items", "enum", "minItems", "maxItems", "minLength", "maxLength",
    "minimum", "maximum", "title", "description",
}  # fmt: skip


def _texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(each, str) for each in value)


def _size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


FORMS: dict[str, tuple[Callable[[Any], bool], str]] = {  # what the values of keywords must be
    "type": (lambda value: isinstance(value, str) or _texts(value), "a name or a list of names"),
    "properties": (lambda value: isinstance(value, Mapping), "a mapping of names to schemas"),
    "required": (_texts, "a list of names"),
    "enum": (lambda value: isinstance(value, list | tuple) and bool(value), "a list with values in it"),
    "additionalProperties": (lambda value: isinstance(value, bool), "true or false here"),
    **dict.fromkeys(("minItems", "maxItems", "minLength", "maxLength"), (_size, "a whole number from 0")),
    **dict.fromkeys(("minimum", "maximum"), (_number, "a number")),
}


def list_schema(count: int) -> dict[str, Any]:
    """An object with `items`, exactly so many texts (servers that keep to schemas want an object outside)."""
    items = {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": count, "maxItems": count}
    return {"type": "object", "properties": {"items": items}, "required": ["items"], "additionalProperties": False}


def check_schema(schema: Any, where: str = "schema") -> None:
    """Raise `ConfigError` for a schema that `problem` could not hold answers to in full: an unknown keyword is never passed over."""
    if not isinstance(schema, Mapping):
        raise ConfigError(f"{where} is a {type(schema).__name__}; a JSON schema is a mapping.")
    if unknown := sorted(set(schema) - KNOWN):
        raise ConfigError(f"{where} uses {', '.join(unknown)}, which answers are not checked for; known are {', '.join(sorted(KNOWN))}.")
    for name, (fits, what) in FORMS.items():
        if name in schema and not fits(schema[name]):
            raise ConfigError(f"{where}: {name} must be {what}; it is {schema[name]!r}.")
    if not set(_kinds(schema)) <= KINDS.keys():
        raise ConfigError(f"{where} has type {schema.get('type')}; known are {', '.join(KINDS)}.")
    for name, inner in schema.get("properties", {}).items():
        check_schema(inner, f"{where}.{name}")
    if "items" in schema:
        check_schema(schema["items"], f"{where}.items")


def problem(value: Any, schema: Mapping[str, Any], where: str = "the answer") -> str | None:
    """What is wrong with a value, in words; None when it fits."""
    kinds = _kinds(schema)
    if kinds and not any(_is(value, kind) for kind in kinds):
        return f"{where} is not of type {' or '.join(kinds)}"
    if "enum" in schema and not any(_same(value, allowed) for allowed in schema["enum"]):
        return f"{where} is none of {', '.join(map(str, schema['enum']))}"
    if isinstance(value, dict):
        return _problem_of_object(value, schema, where)
    if isinstance(value, list):
        return _problem_of_list(value, schema, where)
    if isinstance(value, str):
        return _outside(len(value), schema, "Length", where, "characters")
    if _is(value, "number"):
        return _outside(value, schema, "imum", where, "")
    return None


def _problem_of_object(value: dict[str, Any], schema: Mapping[str, Any], where: str) -> str | None:
    properties = schema.get("properties", {})
    if missing := [name for name in schema.get("required", ()) if name not in value]:
        return f"{where} lacks {', '.join(missing)}"
    if schema.get("additionalProperties", True) is False and (more := [name for name in value if name not in properties]):
        return f"{where} has {', '.join(more)}, which nobody asked for"
    found = (problem(value[name], inner, f"{where}.{name}") for name, inner in properties.items() if name in value)
    return next(filter(None, found), None)


def _problem_of_list(value: list[Any], schema: Mapping[str, Any], where: str) -> str | None:
    if outside := _outside(len(value), schema, "Items", where, "items"):
        return outside
    inner = schema.get("items", {})
    return next(filter(None, (problem(each, inner, f"{where}[{number}]") for number, each in enumerate(value))), None)


def _outside(size: float, schema: Mapping[str, Any], suffix: str, where: str, unit: str) -> str | None:
    least, most = schema.get(f"min{suffix}"), schema.get(f"max{suffix}")
    found = f"{where} has {size} {unit}" if unit else f"{where} is {size}"
    if least is not None and size < least:
        return f"{found}, fewer than {least}" if unit else f"{found}, less than {least}"
    return f"{found}, more than {most}" if most is not None and size > most else None


def _kinds(schema: Mapping[str, Any]) -> tuple[str, ...]:
    kind = schema.get("type", ())
    return (kind,) if isinstance(kind, str) else tuple(kind)


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, KINDS[kind])


def _same(one: Any, other: Any) -> bool:
    """As JSON compares: true is not 1."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)
