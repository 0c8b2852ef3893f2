"""Reward models of more and less data: a regression on the share of what was asked that an answer does, and how often it ranks right."""

from pathlib import Path
from statistics import mean

from amaru.align import read, write
from amaru.align.reward import rewards_by
from amaru.align.rounds import Judges, compared, judge
from amaru.config import atomic_directory, fingerprint_bytes
from amaru.models.reward import scorer
from amaru.recipes.alignment.answers import Voice, answers
from amaru.recipes.alignment.one import ITSELF
from amaru.recipes.reproduce.alignment.arms import OPEN
from amaru.recipes.reproduce.alignment.strand import TEMPLATE, Record, Strand
from amaru.recipes.reward.recipe import RewardRecipe
from amaru.recipes.reward.train import train_reward
from amaru.recipes.run import Run

VERIFIED = "verified"


def measure(strand: Strand, prompts: int) -> Record:
    """Trained on all answers to so many prompts; accuracy on pairs of answers to held-out requests."""
    data = rated(strand)
    recipe = RewardRecipe(
        start=str(strand.tuned),
        data=(str(data / "learned.jsonl"),),
        attributes=(VERIFIED,),
        weights={VERIFIED: 1.0},
        range=(0.0, 1.0),
        pool="end-of-turn",
        template=TEMPLATE,
        longest=strand.recipe.row_length,
        limit=prompts,
        epochs=strand.recipe.rating_epochs,
        learning=strand.recipe.rating,
        seed=strand.seed,
    )
    with Run(strand.run.path(f"reward-{prompts}"), "reward", recipe, strand.run.progress) as inner:
        trained = train_reward(recipe, inner)
    pairs = read([str(data / "pairs.jsonl")]).found
    scores = rewards_by(scorer(trained["checkpoint"], device=strand.run.device))(pairs)
    return {"prompts": prompts, "accuracy": mean(float(best > worst) for best, worst in scores), "pairs": len(pairs)}


def rated(strand: Strand) -> Path:
    """A directory of rated answers of the fine-tuned model, and of pairs to rank: the best and the worst answer to a held-out request."""
    how, start = strand.recipe.answering, Voice(strand.tuned, TEMPLATE)
    drawn = answers(strand.run, "rated-answers", start, strand.held_out, how, f"rated {strand.seed}", title="answers to rank")

    def make(path: Path) -> None:
        judged = judge(strand.held_out, [[(ITSELF, each) for each in some] for some in drawn], Judges())
        pairs, _ = compared(zip(strand.held_out, judged, strict=True), OPEN, 2)
        learned, _ = compared(strand.judged, OPEN, how.samples)
        with atomic_directory(path) as directory:
            write(directory / "pairs.jsonl", pairs)
            write(directory / "learned.jsonl", learned)

    return strand.run.keep("rated", {"answers": fingerprint_bytes(repr(drawn))}, make, lambda path: path, title="rated answers")
