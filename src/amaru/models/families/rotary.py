"""Rotary fields of `config.json`: old files have `rope_theta`, `rope_scaling` and `partial_rotary_factor` side by side, new ones
`rope_parameters`. Both are read, and both are written."""

from collections.abc import Mapping
from typing import Any

from amaru.models.families.fields import Fields, wrong
from amaru.nn.rope import Llama3Scaling, Rope

PLAIN = ("default", None)


def read_rope(values: Mapping[str, Any], *, base: float | None = None, fraction: float = 1.0) -> Rope:
    """`base` and `fraction` are what a config that does not say them means. Raises `CheckpointError` for a kind of scaling that
    is not known here, and for old and new fields that contradict each other."""
    parameters = _object(values, "rope_parameters")
    scaling = _object(values, "rope_scaling")
    told = Fields({**_flat(values), **scaling, **parameters})
    for name, value in _flat(values).items():
        if name in parameters and parameters[name] != value:
            raise wrong(name, value, f"its rope_parameters say {parameters[name]}")
    kind = parameters.get("rope_type", scaling.get("rope_type", scaling.get("type")))
    if kind not in (*PLAIN, "llama3"):
        raise wrong("rope_type", kind, "amaru reads 'default' and 'llama3'")
    return Rope(
        base=told.number("rope_theta", default=base),
        fraction=told.number("partial_rotary_factor", default=fraction),
        scaling=_llama3(told) if kind == "llama3" else None,
    )


def write_rope(rope: Rope) -> dict[str, Any]:
    scaling: dict[str, Any] = {"rope_type": "default"}
    if isinstance(rope.scaling, Llama3Scaling):
        scaling = {
            "rope_type": "llama3",
            "factor": rope.scaling.factor,
            "low_freq_factor": rope.scaling.low,
            "high_freq_factor": rope.scaling.high,
            "original_max_position_embeddings": rope.scaling.original,
        }
    partial = {} if rope.fraction == 1 else {"partial_rotary_factor": rope.fraction}
    return {
        "rope_theta": rope.base,
        **partial,
        **({"rope_scaling": scaling} if rope.scaling else {}),
        "rope_parameters": scaling | {"rope_theta": rope.base} | partial,
    }


def _llama3(told: Fields) -> Llama3Scaling:
    return Llama3Scaling(
        factor=told.number("factor"),
        low=told.number("low_freq_factor"),
        high=told.number("high_freq_factor"),
        original=told.integer("original_max_position_embeddings"),
    )


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: values[name] for name in ("rope_theta", "partial_rotary_factor") if values.get(name) is not None}


def _object(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = values.get(name) or {}
    if not isinstance(found, dict):
        raise wrong(name, found, "an object is needed")
    return found
