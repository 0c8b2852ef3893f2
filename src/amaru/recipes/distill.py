"""Teaching a student what its teacher knows: `amaru distill`."""

from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from amaru.config import Config
from amaru.data.tokenizer import Tokenizer
from amaru.distill.objective import Distillation
from amaru.errors import ConfigError
from amaru.models.checkpoint import Checkpoint, fingerprint, load
from amaru.recipes.compare import for_arithmetic, quality
from amaru.recipes.fit import fit
from amaru.recipes.learning import Learning
from amaru.recipes.run import Run
from amaru.recipes.text import Text, TextRecipe, prepare, tokenizer_of


class DistillRecipe(Config):
    """`DistillRecipe(teacher="runs/demo/parent/model", student="runs/demo/compress/pruned", text=...)`."""

    teacher: str
    student: str
    text: TextRecipe = Field(default_factory=TextRecipe)
    learning: Learning = Learning()
    seed: int = Field(default=0, ge=0)


def distill(recipe: DistillRecipe, run: Run) -> dict[str, Any]:
    """Distil the student on the text with forward KL on logits; returns its quality before and after beside the teacher's."""
    teacher, student = Path(recipe.teacher), Path(recipe.student)
    text = prepare(recipe.text, run, one_tokenizer(teacher, student))
    finished = distil_student(run, "model", teacher, student, recipe.learning, recipe.seed, text)
    models = {"teacher": teacher, "before": student, "model": finished}
    rows = {name: quality(run, name, path, text, recipe.learning.dtype, teacher=teacher) for name, path in models.items()}
    return {"checkpoint": str(finished), "rows": rows}


def distil_student(run: Run, name: str, teacher: Path, start: Path, learning: Learning, seed: int, text: Text) -> Path:
    """A checkpoint `name`, distilled from `start` in the data order of `seed`."""
    return fit(
        run,
        name,
        text,
        learning.training(text.training.row_length, seed),
        lambda: load(start, torch.float32),
        lambda: Distillation(for_arithmetic(teacher, learning.dtype)),
        {"start": fingerprint(start), "teacher": fingerprint(teacher)},
        title=f"distilled {name}",
    )


def one_tokenizer(teacher: Path, student: Path) -> Tokenizer:
    """The tokenizer of both; raises `ConfigError` when they differ, since their logits then speak of different tokens."""
    found, other = tokenizer_of(teacher), tokenizer_of(student)
    if (found.backend.to_str(), found.eos_id) != (other.backend.to_str(), other.eos_id):
        raise ConfigError(f"{teacher} and {student} have different tokenizers; comparing their logits needs one vocabulary.")
    if (one := Checkpoint(teacher).config.vocab) != (two := Checkpoint(student).config.vocab):
        raise ConfigError(f"{teacher} has {one} rows in its head and {student} {two}; comparing their logits needs one vocabulary.")
    return found
