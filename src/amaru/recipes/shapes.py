"""Which shapes fit a budget, from a config alone: no weights, no text. `amaru compress MODEL --shapes`."""

from typing import Any

import numpy as np

from amaru.compress.blocks import library
from amaru.compress.costs import Times
from amaru.compress.latency import grid
from amaru.compress.shapes import Shapes, shapes
from amaru.compress.space import pairs
from amaru.errors import ConfigError
from amaru.models.families import config_of
from amaru.recipes.compression import CompressRecipe, budget_of, timed_batches, times_of_target
from amaru.recipes.latency import table_for
from amaru.recipes.run import Progress

FULLEST = 10  # that are shown
STEPS = (0.85, 0.95, 0.99)


def outlook(recipe: CompressRecipe, progress: Progress) -> dict[str, Any]:
    """Counts of the shapes that fit and of those that use most of the budget, and the fullest of them."""
    config = config_of(recipe.checkpoint)
    if recipe.method != "minipuzzle":
        count = sum(map(len, library(config, recipe.puzzle.variants)))
        raise ConfigError(f"--shapes lists what minipuzzle enumerates; the {count} blocks of puzzle are put together by their scores.")
    times = _times(recipe, progress)
    found = shapes(config, budget_of(recipe, config, times), recipe.space, times)
    fitting = found.fitting()
    order = fitting[np.argsort(-found.used[fitting], kind="stable")]
    return {
        "budget": found.budget.describe(),
        "times": None if times is None else times.describe(),
        "parent": found.cost.at(0).describe(),
        "rules": recipe.space.divisors.describe(),
        "refused": found.refused,
        "shapes": len(found.used),
        "fitting": len(fitting),
        "using": {f"{share:.0%}": len(found.fitting(share)) for share in STEPS},
        "fullest": [_row(found, number) for number in order[:FULLEST]],
    }


def _times(recipe: CompressRecipe, progress: Progress) -> Times | None:
    if not recipe.timed:
        return None
    if recipe.target:
        return times_of_target(recipe)
    config = config_of(recipe.checkpoint)
    own = [(config.hidden, layer) for layer in dict.fromkeys(config.layers)]
    how = {"prompt": recipe.prompt, "context": max(1, recipe.workload.context), "batches": timed_batches(recipe)}
    return table_for(config, grid([*own, *pairs(config, recipe.space)]), **how, progress=progress.update)


def _row(found: Shapes, number: int) -> dict[str, Any]:
    return {"shape": found.shape(number).describe(), "used": float(found.used[number]), "cost": found.cost.at(number).describe()}
