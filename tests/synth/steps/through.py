"""Rows taken through a few steps, with one scripted server for all models."""

import asyncio
from pathlib import Path

from tests.synth.recipes import run
from tests.synth.scripted import Scripted

from amaru.config.strict import build
from amaru.synth.forecast import forecast
from amaru.synth.recipe import Bound, SynthRecipe

NOBODY = "http://127.0.0.1:1/v1"
MODELS = ("writer", "other", "third", "user", "judge", "reward")


def recipe(rows, steps, url=NOBODY, seed=0, directory="."):
    first = [{"name": "rows", "kind": "seeds", "rows": rows}] if rows is not None else []
    steps = [{"name": f"step{number}", **step} for number, step in enumerate(steps)]
    models = {name: {"url": url, "model": name, "attempts": 2} for name in MODELS}
    return Bound(build(SynthRecipe, {"models": models, "steps": [*first, *steps], "seed": seed}), Path(directory))


def through(tmp_path, rows, *steps, script=None, seed=0, directory="."):
    """The rows at the end without their ids, the tallies, the server, and the forecast of calls."""

    async def body():
        async with Scripted(script) as server:
            bound = recipe(rows, steps, server.url, seed, directory)
            tallies, made = await run(bound, tmp_path / "s.sqlite")
            return [{name: value for name, value in row.items() if name != "id"} for row in made], tallies, server, bound

    made, tallies, server, bound = asyncio.run(body())
    return made, tallies, server, sum(step.usage.calls for step in forecast(bound))
