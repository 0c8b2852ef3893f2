"""Who says how good an answer is: a verifier where one can, else a reward model, else a model that compares two answers both ways round."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from amaru.align.comparisons import Scorer
from amaru.align.rounds.answering import Answered
from amaru.align.rounds.prompts import Prompt
from amaru.errors import DataError

By = Literal["verifier", "reward model", "judge model"]
Rewards = list[float | None]
Function = Callable[[Mapping[str, Any], str], float]  # of a prompt's record and an answer, 0 to 1
Duel = Callable[[Prompt, str, str], float | None]  # how much better the first is; None where the two orders disagree


class Judged(NamedTuple):
    """An answer, who gave it, the share of what was asked that it does (None: nobody can check), and its reward (None: no judge)."""

    text: str
    model: str
    verified: float | None
    reward: float | None
    by: By | None


@dataclass(frozen=True)
class Judges:
    """Those there are, in the order in which they are asked.

    verify    instructions and right answers of prompts are checked
    function  a verifier of one's own, for every prompt
    scorer    a reward model
    duel      a judge model
    """

    verify: bool = True
    function: Function | None = None
    scorer: Scorer | None = None
    duel: Duel | None = None


def judge(prompts: Sequence[Prompt], answers: Sequence[Sequence[tuple[str, Answered]]], judges: Judges) -> list[list[Judged]]:
    """Of every prompt the different, whole answers (each comes with its model's name) and what they are worth, by the first judge who
    tells them apart.

    The verifier has the first word: only where it finds all of them equally good is the reward model asked, or else the judge model,
    which compares the first two.
    """
    some = [_different(each) for each in answers]
    shares = [[_verified(prompt, text, judges) for text in texts] for prompt, texts in zip(prompts, some, strict=True)]
    open_ = [number for number, texts in enumerate(some) if len(texts) > 1 and len(set(shares[number])) == 1]
    rewards: list[Rewards] = list(shares)
    by: list[By | None] = ["verifier" if len(set(each)) > 1 else None for each in shares]
    for number, found, who in _undecided(open_, prompts, [list(texts) for texts in some], judges):
        rewards[number], by[number] = found, who
    return [
        [Judged(text, model, share, reward, who) for (text, model), share, reward in zip(texts.items(), *each, strict=True)]
        for texts, *each, who in zip(some, shares, rewards, by, strict=True)
    ]


def _different(answers: Sequence[tuple[str, Answered]]) -> dict[str, str]:
    """Whole texts, each with the model that said it first."""
    found: dict[str, str] = {}
    for model, each in answers:
        if each.whole and each.text.strip():
            found.setdefault(each.text, model)
    return found


def _undecided(
    numbers: Sequence[int], prompts: Sequence[Prompt], texts: Sequence[Sequence[str]], judges: Judges
) -> Iterator[tuple[int, Rewards, By | None]]:
    """Rewards of prompts whose answers no verifier tells apart."""
    if judges.scorer is not None and numbers:
        found = judges.scorer([prompts[number].comparison(texts[number]) for number in numbers])
        for number, rewards in zip(numbers, found, strict=True):
            yield number, list(rewards), "reward model"
        return
    for number in numbers:
        margin = judges.duel(prompts[number], *texts[number][:2]) if judges.duel else None
        nobody: Rewards = [None] * len(texts[number])
        yield (number, nobody, None) if margin is None else (number, [margin / 2, -margin / 2, *nobody[2:]], "judge model")


def _verified(prompt: Prompt, text: str, judges: Judges) -> float | None:
    found = prompt.verified(text) if judges.verify else None
    if judges.function is None:
        return found
    try:
        own = float(judges.function(prompt.record, text))
    except Exception as error:  # the function is the user's, and may end in anything
        raise DataError(f"{prompt.source}: the verifier ended in {type(error).__name__}: {error}.") from error
    if not 0 <= own <= 1:
        raise DataError(f"{prompt.source}: the verifier gave {own}; it gives 0 (wrong) to 1 (right).")
    return own if found is None else min(own, found)
