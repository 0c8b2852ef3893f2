"""A recipe: models, steps and a budget, as one YAML file says them, checked as a whole before anything is asked."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import Field

from amaru.config import Config, fingerprint_bytes, to_dict
from amaru.errors import ConfigError
from amaru.synth.budget import Budget
from amaru.synth.endpoint import Endpoint, Sampling
from amaru.synth.prompt import find_prompt
from amaru.synth.steps import Asked, Joined, Starting, Step, Unique

DECIDES_NOTHING = ("after", "model", "prompt", "share")  # models and prompts are hashed as what they are, not as what they are called


class SynthRecipe(Config):
    """`SynthRecipe(models={"writer": Endpoint(...)}, steps=(Listed(kind="list", name="topics", ...), ...))`.

    models   by the names that steps use
    steps    each takes the rows of the one before, or of those in its `after`
    budget   what all runs in one directory may use together
    seed     decides what is chosen at random
    licence  of what is made, for the card
    """

    models: dict[str, Endpoint] = Field(default_factory=dict)
    steps: tuple[Step, ...] = Field(min_length=1)
    budget: Budget = Budget()
    seed: int = Field(default=0, ge=0)
    licence: str | None = None

    def check(self) -> None:
        known: set[str] = set()
        for step in self.steps:
            if step.name in known:
                raise ConfigError(f"Two steps are called {step.name}; give each a name of its own.")
            for before in step.after or ():
                if before not in known:
                    raise ConfigError(f"Step {step.name} comes after {before}, which is no step above it.")
            for other in self.steps:
                if step.after and isinstance(other, Unique) and other.name in step.after and set(other.after or ()) & set(step.after):
                    raise ConfigError(f"Step {step.name} would take rows twice: with and without {other.name}, which passes them on.")
            for asked in step.asks():
                if asked.model not in self.models:
                    raise ConfigError(f"Step {step.name} asks model '{asked.model}'. There is: {', '.join(self.models) or 'none'}.")
            known.add(step.name)

    def taking(self, files: Mapping[str, Path]) -> "SynthRecipe":
        """With rows of one's own in steps that bring them: `recipe.taking({"own": Path("topics.jsonl")})`.

        Raises `ConfigError` for a step that there is not, or that takes rows of others.
        """
        bringing = [step.name for step in self.steps if isinstance(step, Starting)]
        for name in files:
            if name not in bringing:
                raise ConfigError(f"Step {name} brings no rows of its own. These do: {', '.join(bringing) or 'none'}.")
        absolute = {name: str(file.absolute()) for name, file in files.items()}
        steps = (step.taking(absolute[step.name]) if isinstance(step, Starting) and step.name in absolute else step for step in self.steps)
        return replace(self, steps=tuple(steps))

    def before(self, number: int) -> tuple[int, ...]:
        """The numbers of the steps whose rows step `number` takes; none for one that starts from a row without columns."""
        after = self.steps[number].after
        if isinstance(self.steps[number], Starting):
            return ()
        if after is None:
            return (number - 1,) if number else ()
        return tuple(other for other, step in enumerate(self.steps) if step.name in after)

    def following(self, number: int) -> tuple[int, ...]:
        return tuple(other for other in range(len(self.steps)) if number in self.before(other))

    @property
    def last(self) -> tuple[int, ...]:
        """The steps whose rows nobody takes: they are the result."""
        return tuple(number for number in range(len(self.steps)) if not self.following(number))


def find_recipe(named: Path) -> Path:
    """A file, or one of the recipes that lie beside this module, by its name. Raises `ConfigError` when it is neither."""
    ours = {file.stem: file for file in sorted((Path(__file__).parent / "recipes").glob("*.yaml"))}
    if named.is_file():
        return named
    if str(named) not in ours:
        raise ConfigError(f"There is no recipe file {named}, and no recipe of that name. There is: {', '.join(ours)}.")
    return ours[str(named)]


class Bound:
    """A recipe with all that its steps name (prompts, functions, files) found beside it; `directory` is where the recipe lies.

    Raises `ConfigError` for a prompt that cannot be found or that needs a column which no step above it makes.
    """

    def __init__(self, recipe: SynthRecipe, directory: Path) -> None:
        self.recipe = recipe
        self.directory = directory
        self.prompts = [{role: find_prompt(named, directory) for role, named in step.prompts().items()} for step in recipe.steps]
        self.found = [step.find(directory) for step in recipe.steps]
        self._brought: dict[int, list[dict[str, Any]]] = {}
        self._check_columns()
        self._versions = [self._version(number) for number in range(len(recipe.steps))]

    def unit(self, number: int, row: str) -> str:
        """The key of what a step makes of the row of that key: a hash of all that decides it, back to the first step."""
        return fingerprint_bytes(self._versions[number], row)

    def brought(self, number: int) -> list[dict[str, Any]]:
        """The rows of a step that takes none, read or mined once. Raises `DataError` where they cannot be read."""
        step = self.recipe.steps[number]
        assert isinstance(step, Starting)
        if number not in self._brought:
            self._brought[number] = step.rows_from(self.directory)
        return self._brought[number]

    def sampling(self, asked: Asked) -> Sampling:
        return asked.sampling or self.recipe.models[asked.model].sampling

    def _version(self, number: int) -> str:
        step = self.recipe.steps[number]
        said = {name: value for name, value in to_dict(step).items() if name not in DECIDES_NOTHING}
        parts = [str(said), *step.decided_by(self.directory)]
        for asked in step.asks():
            endpoint = self.recipe.models[asked.model]
            parts += [endpoint.url, endpoint.model, endpoint.system or "", str(self.sampling(asked).sent)]
        parts += [prompt.version for prompt in self.prompts[number].values()]
        if step.draws:
            parts.append(str(self.recipe.seed))
        return fingerprint_bytes(*parts)

    def _check_columns(self) -> None:
        made: list[set[str] | None] = []  # None: only the rows themselves can tell
        for number, step in enumerate(self.recipe.steps):
            before = [made[other] for other in self.recipe.before(number)]
            known = [each for each in before if each is not None]
            has = set.intersection(*known) if known and len(known) == len(before) else None if before else set[str]()
            if has is not None:
                self._require(number, step, has)
            made.append(step.makes(has))

    def _require(self, number: int, step: Joined, has: set[str]) -> None:
        there = f"there is {', '.join(sorted(has))}" if has else "there are none"
        for prompt in self.prompts[number].values():
            if missing := sorted(prompt.needs - has - step.gives):
                lacks = f"needs column {', '.join(missing)}, which no step before makes"
                raise ConfigError(f"The prompt of step {step.name} {lacks}; {there}.")
        if missing := sorted(step.needs() - has):
            raise ConfigError(f"Step {step.name} reads column {', '.join(missing)}, which no step before makes; {there}.")
