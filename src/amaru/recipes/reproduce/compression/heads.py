"""Group-aware pruning of Mamba heads beside pruning that ignores groups (Minitron-SSM, section 3)."""

from dataclasses import replace

from amaru.compress.ranking import Ranking, cut_for
from amaru.compress.surgery import cut_decoder
from amaru.models.checkpoint import load
from amaru.models.decoder import Decoder
from amaru.recipes.reproduce.compression.narrowed import narrowed
from amaru.recipes.reproduce.compression.strand import Record, Strand

VARIANTS = {"group-aware": Ranking(), "ignoring groups": Ranking(heads_ignoring_groups=True)}


def measure(strand: Strand, variant: str) -> Record:
    """The parent without some of its Mamba heads, as cut and after a short distillation."""
    config, scores = strand.search.config, strand.search.scores
    candidate = narrowed(config, "head", strand.recipe.heads)
    cut = cut_for(candidate, config, scores, VARIANTS[variant])

    def start() -> Decoder:
        return cut_decoder(load(strand.parent), cut)

    name = f"heads-{variant.replace(' ', '-')}"
    learning = replace(strand.recipe.learning, tokens=strand.recipe.short_tokens)
    return strand.taught(name, start, learning) | {"shape": candidate.describe(), "student": name}
