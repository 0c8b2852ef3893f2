"""Comparisons from files: every row read, recognised and checked, and what is not used kept with its reason."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from amaru.align.comparisons import Comparison, Comparisons, Dropped, checked, required, weighted
from amaru.align.layouts import RATINGS, recognised
from amaru.data.corpus import find
from amaru.data.files import LINES, PARQUET, Piece, Problem, as_object, objects
from amaru.errors import DataError

ARRAYS = (".json",)  # one array of objects


def read(
    patterns: Sequence[str], *, reward: Mapping[str, float] | None = None, least: int = 2, by_rewards: bool = False
) -> Comparisons:
    """`read(["pairs.jsonl", "help*.parquet"], reward={"helpfulness": 0.65, "verbosity": -0.4})`: what the rows of some files compare.

    reward      which attributes are summed with which weights to the reward; None: the scores that the rows have
    least       answers of a comparison: 2 to compare them, 1 where each is rated for itself
    by_rewards  where rewards contradict the order of a row they decide, instead of it being dropped

    A row that cannot be used is in `dropped` with its place and reason. Raises `DataError` where nothing is left, where
    no comparison has the attributes of `reward`, and for other files.
    """
    files, layouts, dropped = find(list(patterns)).files, Counter[str](), list[Dropped]()
    rows = [row for file in files for row in _rows(file, layouts, dropped)]
    some = _by_prompt(rows) if reward is None else _weighted(list(_by_prompt(rows)), reward)
    ordered = (each.rewarded([a.reward for a in each.answers]) if by_rewards and each.contradicts else each for each in some)
    found, wrong = checked(ordered, least)
    dropped += wrong
    required(found, dropped, ", ".join(patterns))
    repeated = len(found) - len({each.prompt for each in found})
    return Comparisons(tuple(found), len(files), dict(layouts), tuple(dropped), repeated)


def _weighted(some: Sequence[Comparison], reward: Mapping[str, float]) -> list[Comparison]:
    """With their sums; a sum that none has is a mistake, which the order of the answers must not hide."""
    found = list(weighted(some, reward))
    if found and all(each.rewards is None for each in found):
        there = ", ".join(sorted({name for each in some for answer in each.answers for name in answer.attributes})) or "nothing"
        raise DataError(f"No comparison has {', '.join(reward)} for every answer, which makes the reward; answers are rated by {there}.")
    return found


@dataclass(frozen=True)
class Overlap:
    """How many prompts were asked elsewhere too, and the first of them by their places."""

    prompts: int
    asked: int
    shared: tuple[str, ...]

    def __str__(self) -> str:
        return f"{len(self.shared):,} of {self.prompts:,} prompts are among {self.asked:,} others"


def overlap(some: Iterable[Comparison], asked: Iterable[Sequence[Mapping[str, Any]]]) -> Overlap:
    """`overlap(found, (conversation.messages for conversation in trained))`: prompts that begin one of these conversations, or are one.

    Every turn of an assistant in a conversation answered a prompt: all that stood before it.
    """
    prompts = {prompt for turns in asked for prompt in prompts_in(turns)}
    own = list(some)
    return Overlap(len(own), len(prompts), tuple(each.source for each in own if each.prompt in prompts))


def unlike(some: Iterable[Comparison], *, rewards: bool) -> list[Dropped]:
    """Those that a loss can make nothing of: without `rewards` it needs an answer that is better than another, else rewards."""
    found = []
    for each in some:
        if rewards and each.rewards is None:
            known = ", ".join(sorted(each.answers[0].attributes))
            hint = f" Its answers are rated by {known}: make the reward of these with --reward." if known else ""
            found.append(Dropped(each.source, "rewards are missing", f"{each.source}: rpo needs a reward for every answer.{hint}"))
        elif not rewards and not each.pairs:
            sentence = f"{each.source}: none of its answers is better than another, by reward or by the order of the file."
            found.append(Dropped(each.source, "no answer is better than another", sentence))
    return found


def prompts_in(turns: Sequence[Mapping[str, Any]]) -> list[str]:
    """What stands before each answer of an assistant, as `Comparison.prompt` compares it; the whole where nobody answered."""
    places = [place for place, turn in enumerate(turns) if turn.get("role") == "assistant"]
    return [Comparison(tuple(turns[:place]), ()).prompt for place in places or [len(turns)]]


def _rows(file: Path, layouts: Counter[str], dropped: list[Dropped]) -> Iterator[tuple[str, Comparison]]:
    for source, record in records(file):
        if isinstance(record, Problem):
            dropped.append(Dropped(source, record.reason, record.sentence))
            continue
        try:
            found = recognised(source, record)
        except DataError as error:
            dropped.append(Dropped(source, "not in a known layout", str(error)))
            continue
        layouts[found.layout] += 1
        yield found.layout, found.comparison


def records(file: Path) -> Iterator[tuple[str, Any]]:
    suffix = file.suffix.lower()
    if suffix in (*LINES, *PARQUET):
        yield from objects(Piece(str(file)))
    elif suffix in ARRAYS:
        yield from _array(file)
    else:
        raise DataError(f"{file} holds no comparisons: they are read from {', '.join((*LINES, *ARRAYS, *PARQUET))}.")


def _array(file: Path) -> Iterator[tuple[str, Any]]:
    try:
        text = file.read_text(encoding="utf-8")
        found = json.loads(text)
    except (OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read as JSON: {error}.") from None
    if not isinstance(found, list):
        raise DataError(f"{file} must be an array of objects; it is {type(found).__name__}. One object a line is read from .jsonl.")
    for number, record in enumerate(found, start=1):
        source = f"{file}:{number}"
        yield source, as_object(record, source, escaped="\\u" in text)


def _by_prompt(rows: Iterable[tuple[str, Comparison]]) -> Iterator[Comparison]:
    """Rows of one rated answer each, joined where they answer the same prompt, best first if they have rewards; others as they are."""
    joined: dict[str, Comparison] = {}
    for layout, row in rows:
        if layout not in RATINGS:
            yield row
            continue
        key = json.dumps([row.messages, row.values])
        before = joined.get(key)
        joined[key] = row if before is None else replace(before, answers=(*before.answers, *row.answers))
    yield from (each.rewarded([answer.reward for answer in each.answers]) for each in joined.values())
