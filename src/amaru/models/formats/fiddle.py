"""Calls written as fiddle writes them, the library with which NeMo 2 keeps its configs; nothing is called here."""

from collections.abc import Mapping
from typing import Any, NamedTuple

FIDDLE = "fiddle._src.config"


class Call(NamedTuple):
    """`Call("package.module", "Class", {"width": 3})`: a class, and the arguments it is to be called with; plain values or calls."""

    module: str
    name: str
    arguments: Mapping[str, Any]


def graph(root: Call) -> dict[str, Any]:
    """As JSON: every object once, referring to others by key."""
    objects: dict[str, Any] = {}
    key = _add(objects, root, "<root>")
    return {"root": _reference(key), "objects": objects, "refcounts": dict.fromkeys(objects, 1), "version": "0.0.1"}


def _add(objects: dict[str, Any], call: Call, path: str) -> str:
    items = []
    for name, value in call.arguments.items():
        where = f"{path}.{name}"
        leaf = {"type": "leaf", "value": value, "paths": [where]}
        items.append([f"Attr(name='{name}')", _reference(_add(objects, value, where)) if isinstance(value, Call) else leaf])
    number = len(objects)
    names = [[f"Index(index={index})", name] for index, name in enumerate(call.arguments)]
    objects[f"tuple_{number}"] = {"type": _symbol("builtins", "tuple"), "items": names, "metadata": None}
    for kind in ("tags", "history"):
        empty = {"type": _symbol("builtins", "tuple"), "items": [], "metadata": None}
        objects[f"{kind}_{number}"] = {"type": _symbol("builtins", "dict"), "items": [], "metadata": empty}
    metadata = {
        "fn_or_cls": _symbol(call.module, call.name),
        "argument_names": _reference(f"tuple_{number}"),
        "argument_tags": _reference(f"tags_{number}"),
        "argument_history": _reference(f"history_{number}"),
    }
    kind = _symbol(FIDDLE, "BuildableTraverserMetadata")
    named = [[f"Attr(name='{name}')", each] for name, each in metadata.items()]
    objects[f"metadata_{number}"] = {"type": kind, "items": named, "metadata": kind}
    key = f"call_{number}"
    objects[key] = {"type": _symbol(FIDDLE, "Config"), "items": items, "metadata": _reference(f"metadata_{number}"), "paths": [path]}
    return key


def _symbol(module: str, name: str) -> dict[str, str]:
    return {"type": "pyref", "module": module, "name": name}


def _reference(key: str) -> dict[str, str]:
    return {"type": "ref", "key": key}
