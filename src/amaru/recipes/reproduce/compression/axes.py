"""Which axes to cut for one budget: all of them, the feed-forward and hidden widths, the depth, or Mamba heads alone."""

from dataclasses import replace

from amaru.compress.space import SearchSpace
from amaru.models.checkpoint import Checkpoint
from amaru.recipes.compression import CompressRecipe
from amaru.recipes.reproduce.compression.narrowed import narrowed
from amaru.recipes.reproduce.compression.strand import Record, Strand

EVERY = "every axis"
WIDTHS = (1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25)
FEW_HEADS = 0.25  # what is left of a group; heads are no half of the parameters, so they alone cannot meet the budget
SPACES = {
    EVERY: SearchSpace(limit=48),
    "ffn and hidden": SearchSpace(shares={"ffn": WIDTHS, "hidden": WIDTHS}, floors={}, limit=48),
    "depth": SearchSpace(shares={}, floors={"mamba2": 0.2, "attention": 1.0, "mlp": 0.2}, limit=48),
    "heads": SearchSpace(shares={"head": (1.0, FEW_HEADS)}, floors={}, use=0),
}


def name_of(variant: str) -> str:
    """The student's directory."""
    return f"axes-{variant.replace(' ', '-')}"


def measure(strand: Strand, variant: str) -> Record:
    """The student that the search finds in that space, after the long distillation."""
    return strand.found(name_of(variant), _recipe(strand, variant))


def _recipe(strand: Strand, variant: str) -> CompressRecipe:
    recipe = strand.compression(SPACES[variant], finalists=strand.recipe.contenders if variant == EVERY else 3)
    if variant != "heads":
        return recipe
    return replace(recipe, parameters=str(narrowed(Checkpoint(strand.parent).config, "head", FEW_HEADS).parameters))
