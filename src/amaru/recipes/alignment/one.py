"""One round of a run: what it is called, what it asks, where it begins; and the answers that are drawn for it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

from amaru.align.rounds import Answered, Prompt
from amaru.align.rounds.prompts import chosen
from amaru.recipes.alignment.answers import Voice, answers
from amaru.recipes.alignment.settings import AlignRecipe, Round
from amaru.recipes.run import Run

R = TypeVar("R", bound=Round)
Drawn = list[list[tuple[str, Answered]]]  # of each prompt, answers with the name of who gave them
ITSELF = "itself"


@dataclass(frozen=True)
class One(Generic[R]):
    """`One(recipe, run, "rpo-2", how, prompts, start).drawn()`; `prompts` are all that the round may ask, `start` is where it begins."""

    recipe: AlignRecipe
    run: Run
    name: str
    how: R
    prompts: Sequence[Prompt]
    start: Voice

    @property
    def seed(self) -> str:
        return f"{self.recipe.seed} {self.name}"

    @property
    def asked(self) -> tuple[Prompt, ...]:
        return chosen(self.prompts, self.how.limit, self.seed)

    def drawn(self, others: Sequence[str] = ()) -> Drawn:
        """Answers of the model itself, and of other checkpoints beside it."""
        asked, dtype = self.asked, self.how.learning.dtype
        found: Drawn = [[] for _ in asked]
        voices = {ITSELF: replace(self.start, dtype=dtype), **{other: Voice(Path(other), dtype=dtype) for other in others}}
        for number, (model, voice) in enumerate(voices.items()):
            name = f"{self.name}-answers" + (f"-{number}" if number else "")
            title = f"answers of {model if number else 'the model'}"
            for place, some in enumerate(answers(self.run, name, voice, asked, self.how.answering, self.seed, title=title)):
                found[place] += [(model, each) for each in some]
        return found
