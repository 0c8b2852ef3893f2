"""Two models' conversations side by side: a judge sees both in either order, and who wins in both wins."""

import json
from collections.abc import Sequence
from typing import NamedTuple

from amaru.errors import ConfigError
from amaru.eval.estimate import Estimate, Score, estimate, mcnemar
from amaru.eval.judged.conversations import ConversationTask
from amaru.eval.judged.words import compared, letter_of
from amaru.eval.task import Result

VALUES = {"win": 1.0, "tie": 0.5, "loss": 0.0}


class Duel(NamedTuple):
    """Of the first model against the second: outcomes by item, the share won (a tie is a half), and p of the exact sign test without ties.

    `turned` says how often the judge's choice changed with the order, which counts as a tie.
    """

    outcomes: dict[int, str]
    won: Estimate
    p: float
    turned: int


def duel(task: ConversationTask, first: Result, second: Result) -> Duel:
    """`duel(task, measure(task, one), measure(task, other)).won`; raises `ConfigError` when they did not answer the same items."""
    if first.items.keys() != second.items.keys() or first.fingerprint != second.fingerprint:
        raise ConfigError(f"{first.task} was not answered on the same items by both models; measure both with the same settings.")
    items = sorted(first.items)
    both = [(task.items[index], *(json.loads(result.items[index].told) for result in (first, second))) for index in items]
    asked = [compared(item.turns, one, other, item.references) for item, one, other in both]
    asked += [compared(item.turns, other, one, item.references) for item, one, other in both]
    letters = task.judge_model.ask(asked, letter_of)
    pairs = list(zip(letters[: len(items)], letters[len(items) :], strict=True))
    outcomes = {index: outcome(*pair) for index, pair in zip(items, pairs, strict=True)}
    return _told(outcomes, sum({*pair} in ({"A"}, {"B"}) for pair in pairs))


def outcome(forwards: str, backwards: str) -> str:
    """`outcome("A", "B") == "win"`: the first stood at A, then at B."""
    return {("A", "B"): "win", ("B", "A"): "loss"}.get((forwards, backwards), "tie")


def _told(outcomes: dict[int, str], turned: int) -> Duel:
    values: Sequence[str] = list(outcomes.values())
    p = mcnemar(values.count("win"), values.count("loss"))
    return Duel(outcomes, estimate([Score(VALUES[value]) for value in values]), p, turned)
