"""The same accuracy as a Transformer twin: a hybrid, a Llama of its size, and the hybrid without attention, on the same tokens."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import mean

from pydantic import Field

from amaru.models import cost
from amaru.models.decoder import DecoderConfig
from amaru.recipes.bench.long import transformer_like
from amaru.recipes.reproduce.intervals import interval
from amaru.recipes.reproduce.judging import UNFINISHED, Found, above, finding, judgement, told
from amaru.recipes.reproduce.shapes import SMALL
from amaru.recipes.reproduce.trained.guessing import unlearned
from amaru.recipes.reproduce.trained.sizes import as_large
from amaru.recipes.reproduce.trained.tables import described, scores_maps, scores_table
from amaru.recipes.reproduce.trained.trials import Record, Trial, Trials, loss, read, score
from amaru.recipes.shape import Shape

HYBRID, TRANSFORMER, MAMBA = "hybrid", "transformer", "mamba"


class Twins(Trials):
    """`Twins()`: 3.7 M parameters each.

    loss_within   the hybrid's loss may be so much above the Transformer's, relatively
    score_within  its shares of what is recalled or found so much below
    """

    shape: Shape = SMALL
    loss_within: float = Field(default=0.01, gt=0)
    score_within: float = Field(default=0.03, gt=0)


def shapes(recipe: Twins, vocab: int) -> dict[str, DecoderConfig]:
    hybrid = recipe.shape.resolve(vocab)
    alone = replace(recipe.shape, pattern=recipe.shape.pattern.replace("*", "M")).resolve(vocab)
    return {HYBRID: hybrid, TRANSFORMER: transformer_like(hybrid), MAMBA: as_large(alone, cost.parameters(hybrid))}


def names(recipe: Twins) -> list[str]:
    return [HYBRID, TRANSFORMER, MAMBA]


def judge(directory: Path) -> Found:
    trial = read(Twins, names, directory)
    recipe: Twins = trial.recipe
    told_claim = f"A hybrid's loss is at most {recipe.loss_within:.0%} above that of a Transformer of its size"
    found = [_beside(trial, told_claim, "loss", loss, recipe.loss_within, relative=True)]
    for task in recipe.tasks():
        claim = f"It is at most {100 * recipe.score_within:.0f} points below it in {task.name}"
        beside = _beside(trial, claim, task.name, score(task.name), recipe.score_within, relative=False)
        found.append(unlearned(trial, claim, task.name, (HYBRID, TRANSFORMER)) or beside)
    return judgement(found, trial.missing, maps=scores_maps(trial), tables=[scores_table(trial)])


def _beside(trial: Trial, claim: str, what: str, key: Callable[[Record], float], aim: float, relative: bool) -> Found:
    """Of a loss that it is not above, of a share that it is not below."""
    gaps = trial.gaps(HYBRID, TRANSFORMER, key, relative=relative)
    bounds = interval(gaps)
    if bounds is None:
        return finding(claim, UNFINISHED, f"{claim}: {len(gaps)} pairs are there, and an interval needs two.", setting=described(trial))
    verdict = above([-bounds[1], -bounds[0]], -aim) if relative else above(bounds, -aim)
    unit = "%" if relative else "points"
    means = {shape: mean(values) for shape in (HYBRID, TRANSFORMER, MAMBA) if (values := trial.values(shape, key).values())}
    beside = ", ".join(f"{shape} {value:.3f}" for shape, value in means.items())
    sentence = f"{what[0].upper()}{what[1:]}: {100 * mean(gaps):+.1f} {unit} ({told([100 * each for each in bounds], '+.1f')}); {beside}."
    return finding(claim, verdict, sentence, setting=described(trial), figure=mean(gaps), interval=bounds)
