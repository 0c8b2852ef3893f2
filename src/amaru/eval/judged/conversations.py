"""MT-Bench and its like: a model answers the turns of a conversation, and a judge rates each answer from 1 to 10.

    task = open_conversations("mt_bench/question.jsonl", judge, "mt_bench/reference_gpt-4.jsonl")
    measure(task, subject).estimates["score"]
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from amaru.config import fingerprint_bytes
from amaru.errors import ConfigError, DataError
from amaru.eval.estimate import Score
from amaru.eval.files import records
from amaru.eval.judged.words import VERSION, Message, rated, rating_of
from amaru.eval.subject import Request, Subject
from amaru.eval.task import Judged

T = TypeVar("T")
TOGETHER = 16  # conversations that are answered, judged and kept at a time
TOKENS = 1024  # of an answer
METRICS = ("score", "score, first turn", "score, last turn")


class Judge(Protocol):
    """Another model, asked one question after another: `ask(questions, read)` gives what `read` makes of each answer.

    An answer that `read` makes None of is asked for again; raises `EndpointError` when that does not help. `identity` is of all that
    decides what it says.
    """

    @property
    def identity(self) -> str: ...

    def ask(self, questions: Sequence[Sequence[Message]], read: Callable[[str], T | None]) -> list[T]: ...


@dataclass(frozen=True)
class Conversation:
    """What the user says in each turn, and good answers where there are some."""

    turns: tuple[str, ...]
    category: str = ""
    references: tuple[str, ...] | None = None


@dataclass(frozen=True)
class ConversationTask:
    """`score` is the mean over the turns of a conversation; cells are categories. What the model said is kept in `told`, as JSON."""

    name: str
    items: tuple[Conversation, ...]
    judge_model: Judge

    metrics: tuple[str, ...] = METRICS

    @property
    def fingerprint(self) -> str:
        return fingerprint_bytes("conversations", VERSION, self.judge_model.identity, repr(self.items))

    def __len__(self) -> int:
        return len(self.items)

    def judge(self, subject: Subject, wanted: Sequence[int]) -> Iterator[tuple[int, Judged]]:
        for first in range(0, len(wanted), TOGETHER):
            indices = wanted[first : first + TOGETHER]
            said = answered(subject, [self.items[index] for index in indices])
            ratings = self._ratings(indices, said)
            for index, answers, given in zip(indices, said, ratings, strict=True):
                scores = {"score": Score(sum(given) / len(given)), METRICS[1]: Score(given[0]), METRICS[2]: Score(given[-1])}
                yield index, Judged(scores, json.dumps(answers, ensure_ascii=False), self.items[index].category)

    def _ratings(self, indices: Sequence[int], said: Sequence[Sequence[str]]) -> list[list[float]]:
        """Of each conversation one for each turn."""
        asked = [
            (place, rated(item.turns, answers[: turn + 1], item.references))
            for place, (item, answers) in enumerate(zip([self.items[index] for index in indices], said, strict=True))
            for turn in range(len(answers))
        ]
        found: list[list[float]] = [[] for _ in indices]
        for (place, _), rating in zip(asked, self.judge_model.ask([question for _, question in asked], rating_of), strict=True):
            found[place].append(rating)
        return found


def answered(subject: Subject, items: Sequence[Conversation]) -> list[list[str]]:
    """What the model says in each turn, its own earlier answers before it. Raises `ConfigError` without a chat template."""
    if subject.chat is None:
        raise ConfigError("A conversation is held by the model's chat template; give --chat.")
    said: list[list[str]] = [[] for _ in items]
    for turn in range(max(len(item.turns) for item in items)):
        open_ = [place for place, item in enumerate(items) if len(item.turns) > turn]
        requests = [Request(_messages(items[place].turns[: turn + 1], said[place]), TOKENS) for place in open_]
        texts = dict(subject.answers(requests))
        for number, place in enumerate(open_):
            said[place].append(texts[number].strip())
    return said


def _messages(turns: Sequence[str], answers: Sequence[str]) -> tuple[Message, ...]:
    """User and assistant in turns; the last turn is open."""
    told: list[Message] = []
    for turn, answer in zip(turns, answers, strict=False):
        told += [{"role": "user", "content": turn}, {"role": "assistant", "content": answer}]
    return (*told, {"role": "user", "content": turns[-1]})


def open_conversations(path: str | Path, judge: Judge, references: str | Path | None = None) -> ConversationTask:
    """Records with `turns`, and `category` where there is one. Raises `DataError` for a record that does not fit.

    Good answers are `reference` in the record, or, in a file of their own, those of the same `question_id`.
    """
    path, good = Path(path), {} if references is None else _references(Path(references))
    items = tuple(_conversation(source, record, good) for source, record in records(path))
    return ConversationTask(f"{path.absolute().parent.name}/{path.stem}", items, judge)


def _conversation(source: str, record: Mapping[str, Any], good: Mapping[Any, tuple[str, ...]]) -> Conversation:
    turns = record.get("turns")
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, str) and turn for turn in turns):
        raise DataError(f"{source} has no turns; a conversation needs at least one text of the user.")
    found = tuple(record["reference"]) if record.get("reference") else good.get(record.get("question_id"))
    if found is not None and len(found) < len(turns):
        raise DataError(f"{source} has {len(turns)} turns, but {len(found)} reference answers; there is one for each turn.")
    return Conversation(tuple(turns), str(record.get("category", "")), found)


def _references(path: Path) -> dict[Any, tuple[str, ...]]:
    """`turns`, or those of the first of `choices`, by `question_id`."""
    found = {}
    for source, record in records(path):
        try:
            found[record["question_id"]] = tuple(record["turns"] if "turns" in record else record["choices"][0]["turns"])
        except (KeyError, IndexError, TypeError):
            raise DataError(f"{source} is no reference answer; it needs question_id, and turns or choices with turns.") from None
    return found
