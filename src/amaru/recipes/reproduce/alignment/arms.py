"""DPO and RPO beside each other: the same answers of the fine-tuned model, the same pairs and steps, rewards as they are or with noise."""

import random
from collections.abc import Sequence
from typing import Literal

from amaru.align import Comparison, Comparisons
from amaru.align.rounds import Gate, Judged, compared
from amaru.recipes.prefer import stage
from amaru.recipes.preference import PreferRecipe
from amaru.recipes.reproduce.alignment.strand import TEMPLATE, Record, Strand

Loss = Literal["dpo", "rpo"]
Rewards = Literal["clean", "noisy"]
LOSSES: tuple[Loss, ...] = ("dpo", "rpo")
REWARDS: tuple[Rewards, ...] = ("clean", "noisy")
OPEN = Gate(verified=0.0)


def measure(strand: Strand, loss: Loss, rewards: Rewards) -> Record:
    """What the model passes that one loss makes of the pairs; with noise others may be the best and the worst of a prompt."""
    recipe, name = strand.recipe, f"arm-{loss}-{rewards}"
    generator = random.Random(f"noise {strand.seed}")
    deviation = recipe.noise if rewards == "noisy" else 0.0
    judged = [(prompt, [rewarded(each, generator, deviation) for each in some]) for prompt, some in strand.judged]
    pairs, _ = compared(judged, OPEN, 2)
    told = PreferRecipe(
        start=str(strand.tuned),
        template=TEMPLATE,
        terms=recipe.dpo if loss == "dpo" else recipe.rpo,
        longest=recipe.row_length,
        learning=recipe.preferring,
        seed=strand.seed,
    )
    trained = stage(strand.run, name, told, Comparisons(tuple(pairs), files=1, layouts={"judged": len(pairs)}))
    assert trained.checkpoint is not None
    figures = {"comparisons": len(pairs), "steps": trained.figures["steps"], "right": right(pairs)}
    return strand.measured(name, trained.checkpoint) | figures


def rewarded(each: Judged, generator: random.Random, deviation: float) -> Judged:
    """With the share of what it does as its reward, and what a careless judge adds."""
    return each._replace(reward=(each.verified or 0.0) + generator.gauss(0.0, deviation), by="verifier")


def right(pairs: Sequence[Comparison]) -> float:
    """The share of pairs whose chosen answer does at least as much of what is asked as the other."""
    return sum(each.answers[0].attributes["verified"] >= each.answers[1].attributes["verified"] for each in pairs) / len(pairs)
