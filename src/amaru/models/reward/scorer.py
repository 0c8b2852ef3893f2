"""Answers to scores, many in one pass: `scorer("runs/reward/model")([messages, ...])`."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from amaru.errors import DataError
from amaru.models.reward.checkpoint import RewardModel, load
from amaru.models.reward.head import rewards
from amaru.models.reward.prompts import Message
from amaru.nn.batch import Batch

TOKENS = 8192  # of a pass, unless one sequence alone is longer


class Scored(NamedTuple):
    """An answer's attributes by name, and their weighted sum; as computed, never rounded or clamped."""

    attributes: dict[str, float]
    score: float


class Scorer:
    """`Scorer(model)([[{"role": "user", ...}, {"role": "assistant", ...}], ...])` -> a `Scored` for each conversation, in its order.

    Conversations of any lengths run together without padding, about `tokens` tokens a pass, so a score does not depend on what runs
    beside it but for rounding. Raises `DataError` for a conversation that does not end with an answer (`Prompts.ids`), and one that is
    longer than `max_tokens`, by its number from 1.
    """

    def __init__(self, model: RewardModel, tokens: int = TOKENS, max_tokens: int | None = None) -> None:
        self.model, self.tokens = model, tokens
        self.attributes = model.said.attributes
        self.max_tokens = max_tokens or model.decoder.config.max_positions

    def __call__(self, conversations: Sequence[Sequence[Message]]) -> list[Scored]:
        return self.scores([self._numbered(number, each) for number, each in enumerate(conversations, start=1)])

    def ids(self, messages: Sequence[Message]) -> list[int]:
        """The tokens of one conversation, up to the one that is scored at."""
        ids = self.model.prompts.ids(messages)
        if len(ids) > self.max_tokens:
            raise DataError(f"The conversation has {len(ids):,} tokens; this reward model reads at most {self.max_tokens:,}.")
        return ids

    def scores(self, sequences: Sequence[Sequence[int]]) -> list[Scored]:
        """The same of conversations that are tokens already."""
        found: dict[int, Scored] = {}
        for numbers in self._passes(sequences):
            found |= dict(zip(numbers, self._pass([sequences[number] for number in numbers]), strict=True))
        return [found[number] for number in range(len(sequences))]

    def _numbered(self, number: int, messages: Sequence[Message]) -> list[int]:
        try:
            return self.ids(messages)
        except DataError as error:
            raise DataError(f"Conversation {number}: {error}") from None

    def _passes(self, sequences: Sequence[Sequence[int]]) -> Iterator[list[int]]:
        """Numbers of sequences that run together, the longest first, so that memory is asked for once."""
        held, size = [], 0
        for number in sorted(range(len(sequences)), key=lambda number: -len(sequences[number])):
            if held and size + len(sequences[number]) > self.tokens:
                yield held
                held, size = [], 0
            held.append(number)
            size += len(sequences[number])
        if held:
            yield held

    @torch.inference_mode()
    def _pass(self, sequences: Sequence[Sequence[int]]) -> list[Scored]:
        decoder = self.model.decoder
        batch = Batch.of([torch.tensor(ids) for ids in sequences]).to(decoder.embedding.weight.device)
        values = rewards(decoder, batch).double().cpu().tolist()
        return [Scored(self.attributes.told(each), self.attributes.scalar(each)) for each in values]


def scorer(path: str | Path, dtype: torch.dtype | None = None, device: torch.device | str = "cpu") -> Scorer:
    """`scorer("runs/reward/model")(conversations)[0].score`; raises as `checkpoint.load`."""
    return Scorer(load(path, dtype, device))
