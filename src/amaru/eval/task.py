"""What a task is, and how one is run: its items are put to a subject, judged, and kept; what is kept is not asked again.

    result = measure(open_task("arc_easy.jsonl"), subject, Store("evaluations.sqlite"))
    result.estimates["accuracy"].low
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from amaru.errors import ConfigError
from amaru.eval.estimate import Difference, Estimate, Score, difference, estimate
from amaru.eval.store import Store
from amaru.eval.subject import Subject

PIECE = 64  # items that are stored at once


class Judged(NamedTuple):
    """An item's scores by metric, and what is worth remembering of the answer."""

    scores: dict[str, Score]
    told: str = ""
    cell: str = ""  # where it belongs in a grid, such as "4096 0.5"


class Task(Protocol):
    """Numbered items that a subject answers.

    `metrics` are the names of the scores, the first leads; those in `nats` are also told as perplexities. `fingerprint` is of all that
    decides a judgement besides the subject. `judge` may give the items in any order.
    """

    @property
    def name(self) -> str: ...

    @property
    def metrics(self) -> tuple[str, ...]: ...

    @property
    def fingerprint(self) -> str: ...

    def __len__(self) -> int: ...

    def judge(self, subject: Subject, wanted: Sequence[int]) -> Iterator[tuple[int, Judged]]: ...


@dataclass(frozen=True)
class Result:
    """What a subject reached in a task, item by item; `kept` of them were there from before."""

    task: str
    metrics: tuple[str, ...]
    fingerprint: str
    items: Mapping[int, Judged]
    kept: int

    @property
    def estimates(self) -> dict[str, Estimate]:
        return {metric: estimate(self.scores(metric)) for metric in self.metrics}

    def scores(self, metric: str, cell: str | None = None) -> list[Score]:
        return [judged.scores[metric] for _, judged in sorted(self.items.items()) if cell is None or judged.cell == cell]

    @property
    def cells(self) -> dict[str, Estimate]:
        """The leading metric by cell of the grid, where the task has one."""
        names = dict.fromkeys(judged.cell for _, judged in sorted(self.items.items()) if judged.cell)
        return {name: estimate(self.scores(self.metrics[0], name)) for name in names}


def measure(
    task: Task,
    subject: Subject,
    store: Store | None = None,
    limit: int | None = None,
    follow: Callable[[int, int], object] = lambda done, count: None,
) -> Result:
    """Judge the first `limit` items (None: all); `follow(done, count)` is called as it goes on. Raises what the task raises."""
    if limit is not None and limit < 1:
        raise ConfigError(f"--limit is at least 1; got {limit}.")
    count = len(task) if limit is None else min(limit, len(task))
    before = {} if store is None else store.get(subject.identity, task.fingerprint)
    items = {item: _read(value) for item, value in before.items() if item < count}
    kept = len(items)
    fresh: list[tuple[int, dict[str, Any]]] = []
    wanted = [item for item in range(count) if item not in items]

    def keep() -> None:
        if store is not None:
            store.put(subject.identity, task.fingerprint, fresh)
        fresh.clear()

    try:
        for item, judged in task.judge(subject, wanted) if wanted else ():
            items[item] = judged
            fresh.append((item, judged._asdict()))
            if len(fresh) == PIECE:
                keep()
            follow(len(items), count)
    finally:
        keep()
    return Result(task.name, task.metrics, task.fingerprint, items, kept)


def compare(first: Result, second: Result) -> dict[str, Difference]:
    """Two models on the items of one task, by metric. Raises `ConfigError` when they did not answer the same."""
    if first.fingerprint != second.fingerprint or first.items.keys() != second.items.keys():
        raise ConfigError(f"{first.task} was not answered on the same items by both models; measure both with the same settings.")
    return {metric: difference(first.scores(metric), second.scores(metric)) for metric in first.metrics}


def perplexity(nats: float) -> float:
    return math.exp(nats) if nats < 700 else math.inf


def _read(value: dict[str, Any]) -> Judged:
    scores = {name: Score(*score) for name, score in value["scores"].items()}
    return Judged(scores, value["told"], value["cell"])
