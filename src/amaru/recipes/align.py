"""Alignment as Nemotron-4 340B had it: fine-tuning in stages, then rounds, each from the model of the one before. `amaru align`.

start -> code SFT -> general SFT with replay -> DPO -> RPO x N
         every round: answers of the model as it is -> judged -> compared, gated -> learned from -> held-out prompts
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from amaru.config.records import read_record
from amaru.data.chat import Template
from amaru.data.templates import template_of
from amaru.recipes.alignment.answers import Voice
from amaru.recipes.alignment.apart import Prompts, prompts_of
from amaru.recipes.alignment.named import check_named
from amaru.recipes.alignment.on_policy import distilled
from amaru.recipes.alignment.one import One
from amaru.recipes.alignment.passing import passing
from amaru.recipes.alignment.preferring import preferred
from amaru.recipes.alignment.settings import AlignRecipe, OnPolicy
from amaru.recipes.run import Run
from amaru.recipes.sft import SFTRecipe, fine_tune
from amaru.recipes.text import tokenizer_of

SFT = "sft"  # the run directory of fine-tuning, within this one


def align(recipe: AlignRecipe, run: Run) -> dict[str, Any]:
    """Every stage that is not finished yet; returns the last checkpoint, and what every model passes of the held-out prompts."""
    check_named(recipe, run.directory)
    prompts = prompts_of(recipe)
    for name, sentence in prompts.dropped.items():
        run.progress.note(f"  prompts of {name}: {sentence}")
    models: dict[str, str] = {}
    rows: dict[str, dict[str, Any]] = {}
    for name, voice in voices(recipe, run, prompts):
        models[name] = str(voice.checkpoint)
        if prompts.held_out and answers_at_all(voice):
            rows[name] = passing(run, name, voice, prompts.held_out, recipe.held_out_tokens)
            run.progress.note(f"  {name} passes {rows[name]['strict']['mean']:.1%} of {len(prompts.held_out):,} held-out prompts")
        run.write("comparison.json", {"models": models, "rows": rows})
    return {"checkpoint": models[list(models)[-1]], "rows": {name: told(row) for name, row in rows.items()}}


def voices(recipe: AlignRecipe, run: Run, prompts: Prompts) -> Iterator[tuple[str, Voice]]:
    """Every model by the name of its stage, made when it is asked for."""
    last = "start", Voice(Path(recipe.start), recipe.template, recipe.sft_learning.dtype)
    yield last
    for last in fine_tuned(recipe, run):
        yield last
    for how in recipe.rounds:
        for name in how.names:
            before, start = last
            run.progress.note(f"{name}, from {before}")
            here, there = (recipe, run, name), (prompts.of[how.name], start)
            made = distilled(One(*here, how, *there)) if isinstance(how, OnPolicy) else preferred(One(*here, how, *there))
            last = name, voice_of(made, recipe)
            yield last


def fine_tuned(recipe: AlignRecipe, run: Run) -> Iterator[tuple[str, Voice]]:
    """The model of each stage of fine-tuning, which has a run directory of its own."""
    if not recipe.sft:
        return
    run.progress.note("fine-tuning, from start")
    tuning = tuning_of(recipe)
    with Run(run.path(SFT), SFT, tuning, run.progress, str(run.device)) as inner:
        fine_tune(tuning, inner)
        for stage in read_record(inner.path("comparison.json"))["stages"]:
            yield stage["name"], voice_of(inner.path(stage["model"]), recipe)


def tuning_of(recipe: AlignRecipe) -> SFTRecipe:
    """What `amaru sft` would be told."""
    return SFTRecipe(
        start=recipe.start,
        stages=recipe.sft,
        template=recipe.template,
        add_special_tokens=recipe.add_special_tokens,
        row_length=recipe.row_length,
        too_long=recipe.too_long,
        validation_share=recipe.validation_share,
        learning=recipe.sft_learning,
        seed=recipe.seed,
    )


def voice_of(checkpoint: Path, recipe: AlignRecipe) -> Voice:
    """With the template that its tokenizer brings, else with the recipe's."""
    template = None if Template.of(tokenizer_of(checkpoint)) else recipe.template
    return Voice(checkpoint, template, recipe.sft_learning.dtype)


def answers_at_all(voice: Voice) -> bool:
    """Whether its tokenizer knows what the template writes; a model before fine-tuning may not."""
    return not template_of(voice.template, tokenizer_of(voice.checkpoint)).unknown


def told(row: dict[str, Any]) -> dict[str, Any]:
    """What is printed of a model's held-out answers."""
    strict = row["strict"]
    interval = {"prompts": strict["count"], "strict": strict["mean"], "low": strict["low"], "high": strict["high"]}
    return interval | {"loose": row["loose"]["mean"]} | {name: row[name] for name in ("checks", "whole", "tokens")}
