"""From judged answers to a comparison that is worth learning from, or a reason why there is none."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from pydantic import Field

from amaru.align.comparisons import Answer, Comparison
from amaru.align.rounds.judging import Judged
from amaru.align.rounds.prompts import Prompt
from amaru.config import Config


class Gate(Config):
    """`Gate(verified=1.0)`: what a comparison must have, strict in the first rounds and looser in later ones.

    verified  the least share of what was asked that the chosen answer does, where somebody can check
    reward    the least reward of the chosen answer, where the reward model decided
    gap       the reward of the chosen answer must be higher than that of the rejected one by more than this
    """

    verified: float = Field(default=1.0, ge=0, le=1)
    reward: float | None = Field(default=None, allow_inf_nan=False)
    gap: float = Field(default=0.0, ge=0)

    def refuses(self, chosen: Judged, rejected: Judged) -> str | None:
        """Why not, in a few words to count by."""
        assert chosen.reward is not None and rejected.reward is not None
        if chosen.verified is not None and chosen.verified < self.verified:
            return "the best answer does too little of what is asked"
        if self.reward is not None and chosen.by == "reward model" and chosen.reward < self.reward:
            return "the best answer has too low a reward"
        if chosen.reward - rejected.reward <= self.gap:
            return "the answers are too close"
        return None


@dataclass
class Tally:
    """What became of the prompts of a round."""

    prompts: int = 0
    kept: int = 0
    by: Counter[str] = field(default_factory=Counter)
    models: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        by = ", ".join(f"{count:,} by the {name}" for name, count in sorted(self.by.items()))
        refused = "".join(f"; {count:,} without: {reason}" for reason, count in sorted(self.refused.items()))
        return f"{self.kept:,} comparisons of {self.prompts:,} prompts ({by or 'none'}){refused}"


def compared(judged: Iterable[tuple[Prompt, Sequence[Judged]]], gate: Gate, answers: int) -> tuple[list[Comparison], Tally]:
    """A comparison of up to `answers` answers for each prompt that has one: the best, the worst, and others evenly between them."""
    found, tally = [], Tally()
    for prompt, some in judged:
        tally.prompts += 1
        comparison = _of_one(prompt, some, gate, answers)
        if isinstance(comparison, str):
            tally.refused[comparison] += 1
            continue
        found.append(comparison)
        tally.kept += 1
        tally.by[str(some[0].by)] += 1
        tally.models[str(comparison.answers[0].model)] += 1
    return found, tally


def _of_one(prompt: Prompt, some: Sequence[Judged], gate: Gate, answers: int) -> Comparison | str:
    if len(some) < 2:
        return "fewer than two different whole answers"
    ranked = sorted((each for each in some if each.reward is not None), key=lambda each: -(each.reward or 0.0))
    if len(ranked) < 2:
        return "nobody told the answers apart"
    if not all(math.isfinite(each.reward or 0.0) for each in ranked):
        return "a reward is not finite"
    if refused := gate.refuses(ranked[0], ranked[-1]):
        return refused
    taken = spread(len(ranked), answers)
    told = tuple(_answer(ranked[place]) for place in taken)
    return Comparison(prompt.messages, told, source=prompt.source)


def _answer(each: Judged) -> Answer:
    attributes = {} if each.verified is None else {"verified": each.verified}
    return Answer(each.text, each.reward, attributes, each.model)


def spread(count: int, wanted: int) -> list[int]:
    """Places of the first, the last, and others evenly between: `spread(7, 3) == [0, 3, 6]`."""
    wanted = min(count, wanted)
    return [round(place * (count - 1) / (wanted - 1)) for place in range(wanted)]
