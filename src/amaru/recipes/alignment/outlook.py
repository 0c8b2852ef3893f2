"""What an alignment would do, before it is done: every stage with what it begins from, asks, and learns from at most."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from amaru.config import to_dict
from amaru.recipes import sft
from amaru.recipes.align import tuning_of
from amaru.recipes.alignment.apart import Prompts, prompts_of
from amaru.recipes.alignment.named import check_named
from amaru.recipes.alignment.settings import AlignRecipe, OnPolicy, Preferences


def outlook(recipe: AlignRecipe, directory: Path) -> dict[str, Any]:
    """The stages in their order; data is read and checked, no model runs."""
    check_named(recipe, directory)
    prompts, before, stages = prompts_of(recipe), "start", []
    for stage in [*_fine_tuning(recipe, directory), *_rounds(recipe, prompts)]:
        stages.append({"name": stage.pop("name"), "from": before} | stage)
        before = stages[-1]["name"]
    return {"out": str(directory), "stages": stages, "held_out": len(prompts.held_out), "recipe": to_dict(recipe)}


def _fine_tuning(recipe: AlignRecipe, directory: Path) -> Iterator[dict[str, Any]]:
    if recipe.sft:
        for stage in sft.forecast(tuning_of(recipe), directory)["stages"]:
            yield {name: stage[name] for name in ("name", "data", "rows", "steps")}


def _rounds(recipe: AlignRecipe, prompts: Prompts) -> Iterator[dict[str, Any]]:
    for how in recipe.rounds:
        asked = len(prompts.of[how.name])
        each = min(asked, how.limit or asked)
        facts: dict[str, Any] = {"prompts": each, "among": asked, "verifiable": sum(prompt.verifiable for prompt in prompts.of[how.name])}
        if how.name in prompts.dropped:
            facts["dropped"] = prompts.dropped[how.name]
        facts |= _of_preferences(how, each) if isinstance(how, Preferences) else _of_teacher(how, each)
        yield from ({"name": name} | facts for name in how.names)


def _of_preferences(how: Preferences, prompts: int) -> dict[str, Any]:
    models = 1 + len(how.others)
    batch, at = how.learning.batch_rows, how.loss.optimum(1.0)
    return {
        "answers": prompts * how.answering.samples * models,
        "tokens_at_most": prompts * how.answering.samples * models * how.answering.max_tokens,
        "learns": f"{how.loss.method}, beta {how.loss.beta:g}",
        "optimum": f"{at:.3g} nats of log-ratio between answers whose rewards are 1 apart" if math.isfinite(at) else "at no finite gap",
        "steps_at_most": max(1, -(-round(how.epochs * prompts) // batch)),
    }


def _of_teacher(how: OnPolicy, prompts: int) -> dict[str, Any]:
    answers = prompts * how.answering.samples
    return {"answers": answers, "tokens_at_most": answers * how.answering.max_tokens, "learns": f"{how.loss.divergence} of {how.teacher}"}
