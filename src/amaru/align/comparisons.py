"""Comparisons: a prompt and two or more answers to it, with what somebody thought of them. Read from the layouts that people publish
(`layouts`), written in amaru's own:

    {"messages": [{"role": "user", "content": "2 + 2?"}],
     "responses": [{"content": "4", "score": 3.5, "attributes": {"correctness": 4}, "model": "small"}, {"content": "5", "score": 0.5}]}

`score` is the reward, on any scale; it may be missing. `"best_first": true` says that the answers stand in the order of preference.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from amaru.config import atomic_file, fingerprint_bytes
from amaru.data.written import write_records
from amaru.errors import DataError

Message = Mapping[str, Any]
Scorer = Callable[[Sequence["Comparison"]], Sequence[Sequence[float]]]  # a reward for every answer of every comparison
NAMED = 3  # dropped rows, in an error


@dataclass(frozen=True)
class Answer:
    """`Answer("4", reward=3.5, attributes={"correctness": 4.0}, model="small")`: what was said, what it is worth, and who said it."""

    text: str
    reward: float | None = None
    attributes: Mapping[str, float] = field(default_factory=dict)
    model: str | None = None


@dataclass(frozen=True)
class Comparison:
    """`Comparison(messages, answers)`: answers to one prompt; those with rewards stand best first.

    messages    the conversation up to the answer, as chat templates take it
    best_first  the answers stand in somebody's order of preference, whether or not there are rewards
    source      where it was read, such as `pairs.jsonl:12`
    values      what else the template is given, such as tools
    """

    messages: tuple[Message, ...]
    answers: tuple[Answer, ...]
    best_first: bool = False
    source: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rewards(self) -> tuple[float, ...] | None:
        """None where an answer has none."""
        found = tuple(answer.reward for answer in self.answers if answer.reward is not None)
        return found if len(found) == len(self.answers) else None

    @property
    def contradicts(self) -> bool:
        """Whether an answer is said to be better than one with a higher reward."""
        given = [answer.reward for answer in self.answers if answer.reward is not None]
        return self.best_first and given != sorted(given, reverse=True)

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """Which answers are better than which: by reward where that tells them apart, else by the order if it means something."""
        rewards = self.rewards
        both = [(i, j) for j in range(len(self.answers)) for i in range(j)]
        return tuple((i, j) for i, j in both if self.best_first or (rewards is not None and rewards[i] > rewards[j]))

    @property
    def prompt(self) -> str:
        """What was asked, to be compared: the same words in the same roles are the same prompt, however they are spaced and written."""
        return json.dumps([[each.get("role"), " ".join(str(each.get("content", "")).casefold().split())] for each in self.messages])

    @property
    def identity(self) -> str:
        said = [[each.text, each.reward, sorted(each.attributes.items())] for each in self.answers]
        return json.dumps([self.messages, said, self.best_first, self.values], sort_keys=True, ensure_ascii=False)

    def rewarded(self, rewards: Sequence[float | None]) -> "Comparison":
        """The same with other rewards, best first; without them the order is as it was."""
        if len(rewards) != len(self.answers):
            raise DataError(f"{self.source}: {len(rewards)} rewards were given for {len(self.answers)} answers.")
        answers = tuple(replace(answer, reward=reward) for answer, reward in zip(self.answers, rewards, strict=True))
        if any(reward is None for reward in rewards):
            return replace(self, answers=answers)
        best = sorted(answers, key=lambda answer: -answer.reward if math.isfinite(answer.reward) else math.inf)  # type: ignore[operator,arg-type]
        return replace(self, answers=tuple(best), best_first=False)


class Dropped(NamedTuple):
    """A row that is not used: where it stands, why in a few words to count by, and in a sentence."""

    source: str
    reason: str
    sentence: str


@dataclass(frozen=True)
class Comparisons:
    """What was found in some files; `layouts` counts rows by layout, `repeated` comparisons whose prompt came before with other answers,
    `trained_on` those whose prompt the model was fine-tuned on, where that was looked at."""

    found: tuple[Comparison, ...]
    files: int
    layouts: Mapping[str, int]
    dropped: tuple[Dropped, ...] = ()
    repeated: int = 0
    trained_on: int = 0

    def __str__(self) -> str:
        layouts = ", ".join(f"{count:,} rows of {layout}" for layout, count in self.layouts.items())
        more = f"; {self.repeated:,} ask what another asks too" * bool(self.repeated)
        more += f"; {self.trained_on:,} ask what the model was fine-tuned on" * bool(self.trained_on)
        return f"{len(self.found):,} comparisons from {self.files} files ({layouts}){more}{told(self.dropped)}"

    @property
    def fingerprint(self) -> str:
        return fingerprint_bytes(*(each.identity for each in self.found))

    def less(self, dropped: Sequence[Dropped]) -> "Comparisons":
        """Without those that are dropped, which are told with the others."""
        sources = {each.source for each in dropped}
        found = tuple(each for each in self.found if each.source not in sources)
        return replace(self, found=found, dropped=(*self.dropped, *dropped))


def told(dropped: Iterable[Dropped]) -> str:
    """`; 3 dropped: duplicate; 1 dropped: an answer is empty`"""
    counts = Counter(each.reason for each in dropped)
    return "".join(f"; {count:,} dropped: {reason}" for reason, count in sorted(counts.items()))


def required(found: Sequence[Any], dropped: Sequence[Dropped], where: str) -> None:
    """Raise `DataError` with the first reasons when nothing is left."""
    if not found:
        reasons = " ".join(each.sentence for each in dropped[:NAMED])
        raise DataError(f"There is no comparison to learn from in {where}{told(dropped)}. {reasons}".rstrip())


def problem(comparison: Comparison, least: int = 2) -> Dropped | None:
    """Why a comparison teaches nothing, or the wrong thing; None when it is in order."""
    source, answers = comparison.source, comparison.answers
    rewards = [answer.reward for answer in answers]
    given = [reward for reward in rewards if reward is not None]
    if not comparison.messages or comparison.messages[-1].get("role") == "assistant":
        return Dropped(source, "no prompt", f"{source}: what stands before the answers must end with a turn of somebody else.")
    if len(answers) < least:
        return Dropped(source, "too few answers", f"{source} has {len(answers)} answers; a comparison needs {least}.")
    for number, answer in enumerate(answers, start=1):
        if not answer.text.strip():
            return Dropped(source, "an answer is empty", f"{source}: answer {number} is empty.")
        if not all(map(math.isfinite, (*answer.attributes.values(), answer.reward or 0.0))):
            return Dropped(source, "a reward is not finite", f"{source}: the reward or an attribute of answer {number} is not finite.")
    if same := [text for text, count in Counter(answer.text for answer in answers).items() if count > 1]:
        return Dropped(source, "equal answers", f"{source}: two answers are the same text, {same[0][:40]!r}; there is nothing to prefer.")
    if given and len(given) < len(answers):
        return Dropped(source, "a reward is missing", f"{source}: {len(given)} of {len(answers)} answers have a reward; all or none must.")
    if comparison.contradicts:
        return Dropped(source, "rewards contradict the order", f"{source}: an answer is said to be better than one with a higher reward.")
    return None


def checked(some: Iterable[Comparison], least: int = 2) -> tuple[list[Comparison], list[Dropped]]:
    """Those in order, equal ones once, and why the others are not."""
    found: dict[str, Comparison] = {}
    dropped = []
    for each in some:
        if (why := problem(each, least)) is not None:
            dropped.append(why)
        elif found.setdefault(each.identity, each) is not each:
            dropped.append(Dropped(each.source, "duplicate", f"{each.source} is equal to {found[each.identity].source}."))
    return list(found.values()), dropped


def weighted(some: Iterable[Comparison], weights: Mapping[str, float]) -> Iterator[Comparison]:
    """Rewards that are sums of attributes: `weighted(found, {"helpfulness": 0.65, "verbosity": -0.4})`; missing where one of them is."""
    for each in some:
        have = [{"score": answer.reward} if answer.reward is not None else {} for answer in each.answers]
        known = [scores | dict(answer.attributes) for scores, answer in zip(have, each.answers, strict=True)]
        yield each.rewarded(
            [sum(w * one[name] for name, w in weights.items()) if weights.keys() <= one.keys() else None for one in known]
        )


def scored(some: Sequence[Comparison], scorer: Scorer) -> list[Comparison]:
    """Rewards that a function gives: `scored(found, lambda comparisons: [[len(a.text) for a in c.answers] for c in comparisons])`."""
    return [each.rewarded(list(rewards)) for each, rewards in zip(some, scorer(some), strict=True)]


def as_record(comparison: Comparison) -> dict[str, Any]:
    """The comparison in amaru's own layout."""
    responses = []
    for answer in comparison.answers:
        extra = {"score": answer.reward, "attributes": dict(answer.attributes) or None, "model": answer.model}
        responses.append({"content": answer.text} | {name: value for name, value in extra.items() if value is not None})
    first = {"best_first": True} if comparison.best_first else {}
    return {"messages": [dict(each) for each in comparison.messages], "responses": responses, **first, **comparison.values}


def write(path: str | Path, some: Iterable[Comparison]) -> int:
    """`write("pairs.jsonl", comparisons)`: amaru's own layout, as JSON lines or parquet; how many. `read` gives the same back."""
    records = [as_record(each) for each in some]
    write_records(Path(path), records)
    return len(records)


def write_dropped(path: Path, dropped: Sequence[Dropped]) -> None:
    """Every row that is not used, and why, as JSON lines."""
    with atomic_file(path) as temporary:
        temporary.write_text("".join(json.dumps(each._asdict(), ensure_ascii=False) + "\n" for each in dropped), encoding="utf-8")


def without_first_turn(messages: list[Message]) -> list[Message] | None:
    """Up to the next question of the user; a system message stays. None where nothing earlier is left."""
    system = messages[:1] if messages[0]["role"] == "system" else []
    later = [place for place, message in enumerate(messages) if message["role"] == "user" and place > len(system)]
    return [*system, *messages[later[0] :]] if later else None
