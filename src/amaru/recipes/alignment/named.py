"""Models and verifiers that a recipe names: looked at before anything runs, since the first of them may be needed hours later."""

from collections.abc import Iterator
from pathlib import Path

from amaru.config.functions import function_named
from amaru.data.templates import template_of
from amaru.errors import AmaruError, ConfigError
from amaru.models.checkpoint import Checkpoint
from amaru.models.reward.checkpoint import said_of
from amaru.recipes.alignment.settings import AlignRecipe, Judging, OnPolicy, Preferences
from amaru.recipes.text import tokenizer_of


def check_named(recipe: AlignRecipe, directory: Path) -> None:
    """Raises `ConfigError` with the round for what is not there, is of another kind, or has no chat template where one is needed.

    Checkpoints within the run directory are left alone: the run may make them.
    """
    for each in recipe.rounds:
        try:
            _check_round(each, directory)
        except AmaruError as error:
            raise ConfigError(f"Round {each.name}: {error}") from None


def _check_round(how: Preferences | OnPolicy, directory: Path) -> None:
    if isinstance(how, OnPolicy):
        if _awaited(how.teacher, directory):
            Checkpoint(how.teacher)
        return
    for path, template in _speakers(how):
        if _awaited(path, directory):
            Checkpoint(path)
            template_of(template, tokenizer_of(path))
    _check_judges(how.judging, directory)


def _speakers(how: Preferences) -> Iterator[tuple[str, str | None]]:
    """Models that answer or compare answers, each with the template that it is given."""
    yield from ((other, None) for other in how.others)
    if how.judging.judge_model is not None:
        yield how.judging.judge_model, how.judging.judge_template


def _check_judges(judging: Judging, directory: Path) -> None:
    """Those that do not write; `_speakers` has the judge model."""
    if judging.reward_model is not None and _awaited(judging.reward_model, directory):
        said_of(judging.reward_model)
    if judging.verifier is not None:
        function_named(judging.verifier)


def _awaited(path: str, directory: Path) -> bool:
    """Whether a checkpoint must be there before the run begins."""
    return not Path(path).resolve().is_relative_to(directory.resolve())
