"""One width for all layers of a kind (MiniPuzzle), or a block for each (Puzzle), at a light and at a hard budget; and its controls."""

from typing import Any

from amaru.compress.local import LocalDistillation
from amaru.compress.space import SearchSpace
from amaru.recipes.compression import PuzzleRecipe
from amaru.recipes.reproduce.compression.strand import Record, Strand

BUDGETS = {"light": "80%", "hard": "50%"}
BLOCKS = LocalDistillation(tokens=20_000)
METHODS: dict[str, dict[str, Any]] = {
    "minipuzzle": {"method": "minipuzzle"},
    "puzzle": {"method": "puzzle", "puzzle": PuzzleRecipe(local=BLOCKS)},
    "random": {"method": "puzzle", "puzzle": PuzzleRecipe(local=BLOCKS, objective="random")},
    "largest": {"method": "puzzle", "puzzle": PuzzleRecipe(local=BLOCKS, objective="parameters")},
}


def measure(strand: Strand, budget: str, method: str) -> Record:
    """The student of that method; all of them are ranked, judged and distilled alike."""
    learning = strand.recipe.light if budget == "light" else strand.recipe.learning
    recipe = strand.compression(SearchSpace(limit=48), parameters=BUDGETS[budget], finalists=2, learning=learning, **METHODS[method])
    return strand.found(f"puzzle-{budget}-{method}", recipe)
