"""Teaching a student what its teacher knows: `amaru distill`."""

from pathlib import Path
from typing import Any

from pydantic import Field

from amaru.config import from_dict, to_dict
from amaru.data.tokenizer import Tokenizer
from amaru.errors import ConfigError
from amaru.models.checkpoint import Checkpoint, fingerprint
from amaru.recipes.compare import quality
from amaru.recipes.fit import fit
from amaru.recipes.fp8 import training_in
from amaru.recipes.learning import Learning
from amaru.recipes.quantize import Job, QuantizeRecipe
from amaru.recipes.run import Run
from amaru.recipes.teaching import Lesson, Teaching
from amaru.recipes.text import Text, TextRecipe, prepare, tokenizer_of


class DistillRecipe(Teaching):
    """`DistillRecipe(teacher="runs/demo/parent/model", student="runs/demo/compress/pruned", text=...)`."""

    teacher: str
    student: str
    text: TextRecipe = Field(default_factory=TextRecipe)
    learning: Learning = Learning()
    seed: int = Field(default=0, ge=0)

    @property
    def teaching(self) -> Teaching:
        return from_dict(Teaching, {name: to_dict(self)[name] for name in to_dict(Teaching())})


def distill(recipe: DistillRecipe, run: Run) -> dict[str, Any]:
    """Distil the student on the text; returns its quality before and after beside the teacher's, and quantised if that was learned."""
    teacher, student = Path(recipe.teacher), Path(recipe.student)
    text = prepare(recipe.text, run, one_tokenizer(teacher, student))
    finished = distil_student(run, "model", teacher, student, recipe.learning, recipe.seed, text, recipe.teaching)
    models = {"teacher": teacher, "before": student, "model": finished}
    if recipe.quantise is not None:
        models["quantised"] = _quantised(recipe, run, finished)
    rows = {name: quality(run, name, path, text, recipe.learning.dtype, teacher=teacher) for name, path in models.items()}
    return {"checkpoint": str(models.get("quantised", finished)), "rows": rows}


def distil_student(
    run: Run, name: str, teacher: Path, start: Path, learning: Learning, seed: int, text: Text, teaching: Teaching | None = None
) -> Path:
    """A checkpoint `name`, distilled from `start` in the data order of `seed`; without `teaching` by forward KL of a live teacher."""
    training = learning.training(text.row_length, seed)
    lesson = Lesson(teaching or Teaching(), run, teacher, start, training, text)
    student, watch = training_in(lesson.teaching.fp8, lesson.start, run, name, training.steps)
    title = f"distilled {name}"
    return fit(
        run, name, text, training, student, lesson.objective, lesson.made_from, title=title, batches=lesson.batches, watch=watch
    )


def _quantised(recipe: DistillRecipe, run: Run, finished: Path) -> Path:
    """The codes that were trained for."""
    assert recipe.quantise is not None
    job = QuantizeRecipe(checkpoint=str(finished), out=str(run.path("quantised")), scheme=recipe.quantise)
    origin = {"model": fingerprint(finished), "scheme": repr(recipe.quantise)}
    return run.keep("quantised", origin, lambda path: Job(job).run(), lambda path: path, title="quantised")


def one_tokenizer(teacher: Path, student: Path) -> Tokenizer:
    """The tokenizer of both; raises `ConfigError` with the first difference, since their logits then speak of different tokens."""
    found, other = tokenizer_of(teacher), tokenizer_of(student)
    if difference := found.difference(other):
        raise ConfigError(f"{teacher} and {student} have different tokenizers: {difference}. Comparing their logits needs one.")
    if (one := Checkpoint(teacher).config.vocab) != (two := Checkpoint(student).config.vocab):
        raise ConfigError(f"{teacher} has {one} rows in its head and {student} {two}; comparing their logits needs one vocabulary.")
    return found
