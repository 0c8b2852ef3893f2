"""A reward model as whoever rewards comparisons: `scored(found, rewards_by(scorer("runs/reward/model")))`."""

from collections.abc import Sequence

from amaru.align.comparisons import Comparison, Message
from amaru.align.comparisons import Scorer as Rewarder
from amaru.models.reward.scorer import Scorer


def conversation(comparison: Comparison, index: int) -> list[Message]:
    """The prompt with one of its answers."""
    return [*comparison.messages, {"role": "assistant", "content": comparison.answers[index].text}]


def rewards_by(scorer: Scorer) -> Rewarder:
    """The score of every answer, all of them in as few passes as they fit into. Raises `DataError` as the scorer does."""

    def rewards(some: Sequence[Comparison]) -> list[list[float]]:
        told = iter(scorer([conversation(each, index) for each in some for index in range(len(each.answers))]))
        return [[next(told).score for _ in each.answers] for each in some]

    return rewards
