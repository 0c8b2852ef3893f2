"""Scores that say nothing: of shapes none of which has learned a task, one is not "as good as" another."""

from collections.abc import Sequence
from statistics import mean

from amaru.recipes.reproduce.judging import UNDECIDED, Found, finding
from amaru.recipes.reproduce.trained.tables import described
from amaru.recipes.reproduce.trained.trials import Trial, Trials, score


def guessed(recipe: Trials, task: str) -> float:
    """The score of who guesses among the tokens that an answer is made of: `2 / 32` for recall, where half of 32 tokens are values."""
    return {"recall": 2 / recipe.alphabet, "copy": 1 / recipe.alphabet}.get(task, 0.0)


def unlearned(trial: Trial, claim: str, task: str, shapes: Sequence[str]) -> Found | None:
    """That the claim is undecided, where no shape's mean score is `Trials.learned` above guessing; None where cells are missing too."""
    scores = {shape: mean(some) for shape in shapes if (some := trial.values(shape, score(task)).values())}
    chance = guessed(trial.recipe, task)
    if len(scores) < len(shapes) or max(scores.values()) >= chance + trial.recipe.learned:
        return None
    said = ", ".join(f"{shape} {value:.3f}" for shape, value in scores.items())
    sentence = f"{task[0].upper()}{task[1:]}: none of them has learned it in so many tokens ({said}; guessing {chance:.3f})."
    return finding(claim, UNDECIDED, sentence, setting=described(trial))
