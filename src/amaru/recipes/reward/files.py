"""Files whose answers are scored: every row comes back with what a reward model says of its answers.

    messages, prompt/completion, ...          + "attributes": {"helpfulness": 3.1, ...}, "score": 4.2
    prompt, chosen, rejected                  + "chosen_attributes", "chosen_reward", "rejected_attributes", "rejected_reward"
    other comparisons (`align.layouts`)       in amaru's own layout: messages, responses of content, attributes and score
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from amaru.align.comparisons import Dropped, as_record, write_dropped
from amaru.align.layouts import RATINGS, recognised
from amaru.align.reading import records
from amaru.align.reward.judging import conversation
from amaru.data.conversations import recognised as conversation_of
from amaru.data.corpus import find
from amaru.data.files import Problem
from amaru.data.written import check_name, write_records
from amaru.errors import DataError
from amaru.models.reward.prompts import Message
from amaru.models.reward.scorer import Scored
from amaru.recipes.reward.scoring import KeptScorer, Unscored

ROWS = 1024  # that are read and scored together
SIDES = ("chosen", "rejected")

Record = Mapping[str, Any]


class Row(NamedTuple):
    """A row's conversations, what of it is written once they are scored, and the fields that this adds to it. In amaru's own layout
    scores stand within `responses`, which is among `added` where they are there already."""

    source: str
    asked: Sequence[Sequence[Message]]
    written: Callable[[Sequence[Scored]], dict[str, Any]]
    record: Record
    added: tuple[str, ...]


def score_files(data: Sequence[str], out: str | Path, scorer: KeptScorer, overwrite: bool = False) -> dict[str, Any]:
    """`score_files(["answers.jsonl"], "scored.jsonl", KeptScorer("runs/reward/model"))`: how many rows were written, and the mean score.

    Rows that cannot be scored are in `OUT.dropped.jsonl`, with their reasons. Numbers are as computed, never rounded or clamped. Raises
    `DataError` when no row can be scored, and for rows that have a field of the same name already, unless they may be overwritten.
    """
    out = Path(out)
    check_name(out)
    dropped: list[Dropped] = []
    written: list[dict[str, Any]] = []
    scores: list[float] = []
    coming = _rows(data, overwrite, dropped)
    while rows := list(islice(coming, ROWS)):
        results = iter(scorer([messages for row in rows for messages in row.asked]))
        for row in rows:
            found = [next(results) for _ in row.asked]
            if wrong := [each for each in found if isinstance(each, Unscored)]:
                dropped.append(Dropped(row.source, "not scored", f"{row.source}: {wrong[0].sentence}"))
                continue
            told = [each for each in found if isinstance(each, Scored)]
            written.append(row.written(told))
            scores += [each.score for each in told]
    if not written:
        raise DataError(f"No row of {', '.join(data)} can be scored. {dropped[0].sentence if dropped else ''}".rstrip())
    write_records(out, written)
    beside = out.with_name(f"{out.name}.dropped.jsonl")
    write_dropped(beside, dropped) if dropped else beside.unlink(missing_ok=True)
    told = {"rows": len(written), "answers": len(scores), "mean": sum(scores) / len(scores), "lowest": min(scores), "highest": max(scores)}
    return {"file": str(out), **told, "dropped": len(dropped), "kept": scorer.kept} | ({"dropped_file": str(beside)} if dropped else {})


def _rows(data: Sequence[str], overwrite: bool, dropped: list[Dropped]) -> Iterator[Row]:
    for file in find(list(data)).files:
        for source, record in records(file):
            if isinstance(record, Problem):
                dropped.append(Dropped(source, record.reason, record.sentence))
                continue
            try:
                row = _row(source, record)
            except DataError as error:
                dropped.append(Dropped(source, "not in a known layout", str(error)))
                continue
            if not overwrite and (there := [name for name in row.added if name in record]):
                raise DataError(f"{source} has {_there(there[0])} already, which scores would replace; rename it, or give --overwrite.")
            yield row


def _row(source: str, record: Record) -> Row:
    try:
        layout, found = recognised(source, record)
    except DataError:
        messages = conversation_of(source, record)[1].messages
        return Row(source, [messages], lambda scored: {**record, **_fields(scored[0])}, record, ("attributes", "score"))
    asked = [conversation(found, index) for index in range(len(found.answers))]
    if layout in RATINGS:
        return Row(source, asked, lambda scored: {**record, **_fields(scored[0])}, record, ("attributes", "score"))
    if layout in ("pair", "responses"):
        added = tuple(f"{side}_{name}" for side in SIDES for name in ("attributes", "reward"))
        return Row(source, asked, lambda scored: {**record, **dict(zip(added, _flat(scored), strict=True))}, record, added)

    def written(scored: Sequence[Scored]) -> dict[str, Any]:
        pairs = zip(found.answers, scored, strict=True)
        answers = tuple(replace(answer, reward=each.score, attributes=each.attributes) for answer, each in pairs)
        return as_record(replace(found, answers=answers))

    if layout == "amaru":
        there = any(answer.reward is not None or answer.attributes for answer in found.answers)
        return Row(source, asked, lambda scored: {**record, **written(scored)}, record, ("responses",) * there)
    return Row(source, asked, written, record, ())


def _there(name: str) -> str:
    return "scores in its responses" if name == "responses" else f"a field '{name}'"


def _fields(scored: Scored) -> dict[str, Any]:
    return {"attributes": scored.attributes, "score": scored.score}


def _flat(scored: Sequence[Scored]) -> list[Any]:
    """Of the chosen answer and then of the rejected one: a pair is read with the chosen one first."""
    return [value for each in scored for value in (each.attributes, each.score)]
