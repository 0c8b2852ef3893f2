"""Half of the SSM state's channels: what it costs in loss, and what it gives at a large batch."""

from amaru.recipes.reproduce.compression.narrowed import narrowed
from amaru.recipes.reproduce.compression.strand import Record, Strand

NAME = "states"


def measure(strand: Strand) -> Record:
    """The student whose state is narrower and nothing else."""
    candidate = narrowed(strand.search.config, "state", strand.recipe.state)
    taught = strand.taught(NAME, lambda: strand.search.student(candidate), strand.recipe.light)
    return taught | {"shape": candidate.describe(), "student": NAME}
