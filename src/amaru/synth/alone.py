"""One step by itself: rows in, rows out, with everything that recipes have."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from amaru.config import from_dict, to_dict
from amaru.config.strict import build
from amaru.errors import ConfigError
from amaru.synth import session
from amaru.synth.endpoint import Endpoint
from amaru.synth.reading import read_rows, results
from amaru.synth.recipe import Bound, SynthRecipe
from amaru.synth.steps import KINDS, Starting
from amaru.synth.store import Store


def make(
    kind: str, rows: Sequence[Mapping[str, Any]], models: Mapping[str, Endpoint], out: str | Path, **settings: Any
) -> list[dict[str, Any]]:
    """`make("list", [{"topic": "Rivers"}], {"writer": Endpoint(...)}, "runs/rivers", prompt="open_questions", column="question", count=5)`.

    The rows that a step of that kind makes of these, each with its `id`; `out` keeps every answer, so that the same call goes on from
    there. Raises `ConfigError` for a kind or a setting that there is not.
    """
    values = alone(kind, {"rows": list(rows)}, list(models), settings)
    recipe = from_dict(SynthRecipe, {"steps": values, "models": {name: to_dict(model) for name, model in models.items()}})
    bound = Bound(recipe, Path())
    session.run(bound, out)
    with Store(Path(out) / session.STORE) as store:
        return list(results(bound, read_rows(bound, store)))


def alone(
    kind: str, rows: Mapping[str, Any], models: Sequence[str], settings: Mapping[str, Any], assignments: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """The steps of a recipe with one step and its rows. Where the step asks one model and there is one, it is that."""
    if kind not in KINDS:
        raise ConfigError(f"There is no step of kind '{kind}'. There is: {', '.join(KINDS)}.")
    known = {field.name for field in fields(KINDS[kind])}
    named = {"model": models[0]} if "model" in known and len(models) == 1 else {"models": list(models)} if "models" in known else {}
    step = to_dict(build(KINDS[kind], {"name": kind, "kind": kind, **named, **settings}, assignments))
    if issubclass(KINDS[kind], Starting):
        return [step]
    return [{"name": "rows", "kind": "seeds", **rows}, step]
