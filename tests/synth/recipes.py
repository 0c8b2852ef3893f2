"""Small recipes, and running them against a server."""

from pathlib import Path

from amaru.config.strict import build
from amaru.synth.budget import Ledger
from amaru.synth.client import Client
from amaru.synth.making import Maker
from amaru.synth.reading import read_rows, results
from amaru.synth.recipe import Bound, SynthRecipe
from amaru.synth.running import Running
from amaru.synth.store import Store

FIVE_STEPS = [
    {"name": "topics", "kind": "list", "model": "writer", "prompt": "macro_topics", "column": "topic", "count": 4},
    {"name": "questions", "kind": "list", "model": "writer", "prompt": "open_questions", "column": "question", "count": 5},
    {"name": "levels", "kind": "columns", "choose": {"level": ["beginner", "expert"]}, "set": {"asked": "{{ level }}: {{ question }}"}},
    {"name": "answers", "kind": "text", "model": "writer", "prompt": "Answer this: {{ asked }}", "column": "answer"},
    {
        "name": "scores",
        "kind": "object",
        "model": "writer",
        "prompt": "How good is this? {{ answer }}",
        "schema": {"type": "object", "properties": {"score": {"type": "integer", "minimum": 0}}, "required": ["score"]},
    },
]


def bound(url, steps=FIVE_STEPS, budget=None, directory=".", **model):
    writer = {"url": url, "model": "m", "timeout": 60.0, "concurrency": 16, "attempts": 20, **model}
    return Bound(build(SynthRecipe, {"models": {"writer": writer}, "steps": steps, "budget": budget or {}}), Path(directory))


async def run(recipe, path, **given):
    """Tallies and the rows at the end of the recipe."""
    with Store(path) as store:
        async with Client(recipe.recipe.models.values(), store, Ledger(recipe.recipe.budget, store.usage()), 0.005) as client:
            tallies = await Running(recipe, store, Maker(recipe, client), **given).run()
        return tallies, list(results(recipe, read_rows(recipe, store)))
