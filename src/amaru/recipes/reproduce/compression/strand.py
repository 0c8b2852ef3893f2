"""One parent and all that is made of it: the unit that is repeated over seeds, in a run directory of its own."""

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from amaru.compress.space import SearchSpace
from amaru.config.records import read_record
from amaru.data.loader import in_order
from amaru.distill.objective import Distillation
from amaru.eval.perplexity import evaluate
from amaru.models import cost
from amaru.models.checkpoint import fingerprint
from amaru.models.decoder import Decoder
from amaru.recipes.compare import BATCH_ROWS, for_arithmetic, quality
from amaru.recipes.compression import CompressRecipe
from amaru.recipes.fit import fit
from amaru.recipes.learning import Learning
from amaru.recipes.reproduce.compression.settings import CompressionClaims, Size, SizeName
from amaru.recipes.run import Run
from amaru.recipes.search import Search
from amaru.recipes.train import TrainRecipe, train_model
from amaru.train.objective import CrossEntropy, Objective

Record = dict[str, Any]


class Strand:
    """`Strand(recipe, "small", 0, run).parent`: everything is read from the run directory where it is whole."""

    def __init__(self, recipe: CompressionClaims, size: SizeName, seed: int, run: Run) -> None:
        self.recipe, self.seed, self.run = recipe, seed, run
        self.size: SizeName = size

    @property
    def sized(self) -> Size:
        return self.recipe.size(self.size)

    @cached_property
    def parent(self) -> Path:
        training = TrainRecipe(text=self.recipe.text, shape=self.sized.shape, learning=self.sized.parent, seed=self.seed)
        with Run(self.run.path("parent"), "train", training, self.run.progress) as inner:
            return train_model(training, inner).checkpoint

    @cached_property
    def search(self) -> Search:
        """The parent's text and scores."""
        return Search(self.compression(SearchSpace()), self.run)

    def compression(self, space: SearchSpace, **changes: Any) -> CompressRecipe:
        """What `amaru compress` would be given for this parent."""
        recipe = CompressRecipe(
            checkpoint=str(self.parent),
            text=replace(self.recipe.text, vocab=None),
            parameters=self.recipe.budget,
            space=space,
            short_tokens=self.recipe.short_tokens,
            rounds=1,
            learning=self.recipe.learning,
            seed=self.seed,
        )
        return replace(recipe, **changes)

    def found(self, name: str, recipe: CompressRecipe) -> Record:
        """The student that such a search finds, after the long distillation; `name` is its directory."""
        search = Search(recipe, self.run, f"{name}-")
        plan = search.plan()
        taught = self.taught(name, lambda: search.student(plan.candidate), recipe.learning)
        table = read_record(self.run.path(f"{name}-search.json"))
        winner = next(row for row in table["candidates"] if row["winner"])
        return taught | {
            "shape": plan.candidate.describe(),
            "student": name,
            "kendall_tau": table["kendall_tau"],
            "winner_before": winner["rank_before"],
        }

    def record(self, name: str, measure: Callable[[], Record]) -> Record:
        """`cell-NAME.json`, measured once."""
        facts = {"size": self.size, "seed": self.seed, "parent_loss": self.whole["loss"], "parent_accuracy": self.whole["accuracy"]}
        return self.run.result(f"cell-{name}", {"parent": fingerprint(self.parent)}, lambda: facts | measure(), title=name)

    @cached_property
    def whole(self) -> Record:
        """The parent's own quality."""
        return self.quality("parent", self.parent)

    def quality(self, name: str, checkpoint: Path) -> Record:
        """Loss and accuracy on all validation rows."""
        found = quality(self.run, name, checkpoint, self.search.text, self.recipe.learning.dtype)
        return {"loss": found["loss"], "accuracy": found["accuracy"]}

    def taught(self, name: str, start: Callable[[], Decoder], learning: Learning) -> Record:
        """Losses of a student as it is cut and after distillation, and what it costs."""
        student = start()
        student.compute_dtype = self.search.parent.compute_dtype
        before = evaluate(student, in_order(self.search.text.validation, BATCH_ROWS)).loss
        teacher = lambda: Distillation(for_arithmetic(self.parent, self.recipe.learning.dtype))  # noqa: E731  (made only when needed)
        after = self.quality(name, self.fitted(name, start, teacher, learning))
        costs = {"tokens": learning.tokens, "lr": learning.lr, "parameters": cost.parameters(student.config)}
        return {"before": before, **after, **costs}

    def from_scratch(self, name: str, start: Callable[[], Decoder], tokens: int, lr: float) -> Path:
        """A checkpoint of `start()` trained on the text alone, in the batches that a student sees."""
        return self.fitted(name, start, CrossEntropy, replace(self.recipe.learning, tokens=tokens, lr=lr))

    def fitted(self, name: str, start: Callable[[], Decoder], objective: Callable[[], Objective], learning: Learning) -> Path:
        text = self.search.text
        training = learning.training(text.training.row_length, self.seed)
        return fit(self.run, name, text, training, start, objective, {"parent": fingerprint(self.parent), "name": name})
