"""The settings of the compression claims: parents, budgets, tokens, and who is repeated how often."""

from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import Field

from amaru.config import Config
from amaru.errors import ConfigError
from amaru.recipes.learning import Learning
from amaru.recipes.reproduce import shapes
from amaru.recipes.shape import Shape
from amaru.recipes.text import PYTHON, TextRecipe

SizeName = Literal["small", "large"]
Part = Literal["heads", "axes", "scratch", "states", "puzzle", "speeds"]


class Size(Config):
    """A parent's shape and training, and the seeds: each has a parent, a calibration and orders of data of its own."""

    shape: Shape
    parent: Learning
    seeds: tuple[int, ...]


SMALL = Size(
    shape=shapes.SMALL,
    parent=Learning(tokens=3_000_000, batch_rows=2, lr=4e-3, validations=20),
    seeds=(0, 1, 2),
)
LARGE = Size(
    shape=shapes.LARGE,
    parent=Learning(tokens=1_500_000, batch_rows=2, lr=2e-3, validations=20),
    seeds=(0,),
)


class CompressionClaims(Config):
    """`CompressionClaims()`: three parents of 3.7 M parameters and one of 15 M, on Python's own source.

    learning      of students that lose half; the short distillations differ in their tokens only
    light         of students that lose little: they start near their parent, and what learns half of a model anew would move them away
    budget        of all students that are compared at one budget, as a share of the parent's parameters
    heads         share of a group's Mamba heads that stays where heads alone are cut
    state         share of the state channels that stays where they alone are cut
    contenders    how many candidates are ranked before and after a short distillation
    multiples     how many times the student's tokens its twin from scratch gets, ascending
    scratch_lrs   peak learning rates that the twin may choose from, at the first multiple

    `parts` is which of the cells are made.
    """

    parts: ClassVar[tuple[Part, ...]] = ("heads", "axes", "scratch", "states", "puzzle", "speeds")
    text: TextRecipe = TextRecipe(data=(PYTHON,), vocab=2048, row_length=256, limit_megabytes=12.0)
    small: Size = SMALL
    large: Size = LARGE
    learning: Learning = Learning(tokens=200_000, batch_rows=2, lr=2e-3)
    light: Learning = Learning(tokens=200_000, batch_rows=2, lr=5e-4)
    short_tokens: int = Field(default=50_000, gt=0)
    budget: str = "50%"
    heads: float = Field(default=0.5, gt=0, lt=1)
    state: float = Field(default=0.5, gt=0, lt=1)
    contenders: int = Field(default=8, gt=1)
    multiples: tuple[int, ...] = (1, 2, 4, 10)
    scratch_lrs: tuple[float, ...] = (2e-3, 4e-3, 8e-3)

    def check(self) -> None:
        if len(set(self.small.seeds)) < 2:
            raise ConfigError(f"An interval needs at least two different seeds; got {list(self.small.seeds)}.")
        if list(self.multiples) != sorted(set(self.multiples)) or not self.multiples or self.multiples[0] < 1:
            raise ConfigError(f"multiples must be whole numbers from 1, ascending; got {list(self.multiples)}.")
        if not self.scratch_lrs or min(self.scratch_lrs) <= 0:
            raise ConfigError(f"scratch_lrs needs at least one learning rate above 0; got {list(self.scratch_lrs)}.")

    def size(self, name: SizeName) -> Size:
        return self.small if name == "small" else self.large


class GroupAware(CompressionClaims):
    """`GroupAware()`: heads alone, on parents whose heads are in eight groups of two, as many groups as Nemotron-H has."""

    parts: ClassVar[tuple[Part, ...]] = ("heads",)
    small: Size = replace(SMALL, shape=replace(SMALL.shape, groups=8, state=32), parent=replace(SMALL.parent, tokens=1_500_000))
    large: Size = replace(LARGE, seeds=())
