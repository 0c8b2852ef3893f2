"""Tasks from local files: `open_task("gsm8k/test.jsonl", shots=5, examples="gsm8k/train.jsonl")`."""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amaru.config import fingerprint_bytes
from amaru.data.files import Piece, Problem, objects
from amaru.errors import ConfigError, DataError
from amaru.eval.items import Choice, LastWord, Question
from amaru.eval.layouts import LAYOUTS, Item, Layout, layout_of
from amaru.eval.likelihood import Likelihood
from amaru.eval.subject import Subject
from amaru.eval.task import Judged

BETWEEN = "\n\n"  # examples, and before the item itself
SUBJECTS = ("subject", "category")  # fields of records; where items and examples have one, examples are of the item's own subject
Records = list[tuple[str, dict[str, Any]]]  # each with where it stands


@dataclass(frozen=True)
class FileTask:
    """A file's items in one layout, each behind its `examples`: the same for all, or those of its subject."""

    name: str
    layout: Layout
    items: tuple[Item, ...]
    examples: tuple[str, ...]
    origin: str

    @property
    def metrics(self) -> tuple[str, ...]:
        return self.layout.metrics

    @property
    def fingerprint(self) -> str:
        return fingerprint_bytes("file task", str(self.layout.version), self.origin, *dict.fromkeys(self.examples))

    def __len__(self) -> int:
        return len(self.items)

    def judge(self, subject: Subject, wanted: Sequence[int]) -> Iterator[tuple[int, Judged]]:
        asked = {index: item for index in wanted if isinstance(item := self.items[index], Question)}
        measured = {index: item for index in wanted if isinstance(item := self.items[index], Choice | LastWord)}
        yield from self._measured(subject, measured)
        yield from self._asked(subject, asked)

    def _measured(self, subject: Subject, items: dict[int, Choice | LastWord]) -> Iterator[tuple[int, Judged]]:
        """An item is judged when the last of its endings has come."""
        places = [(index, number) for index, item in items.items() for number in range(len(item.pairs))]
        pairs = [items[index].pairs[number] for index, number in places]
        before = [self.examples[index] for index, _ in places]
        endings = [subject.ending(shown + context, continuation) for shown, (context, continuation) in zip(before, pairs, strict=True)]
        found: dict[int, dict[int, Likelihood]] = defaultdict(dict)
        for place, likelihood in subject.likelihoods(endings):
            index, number = places[place]
            found[index][number] = likelihood
            if len(found[index]) == len(items[index].pairs):
                yield index, Judged(items[index].judged([each for _, each in sorted(found.pop(index).items())]))

    def _asked(self, subject: Subject, items: dict[int, Question]) -> Iterator[tuple[int, Judged]]:
        indices = list(items)
        behind = [items[index].request.behind(self.examples[index]) for index in indices]
        for place, text in subject.answers(behind):
            yield indices[place], Judged(dict(items[indices[place]].grade(text)), text)


def open_task(path: str | Path, layout: str | None = None, shots: int = 0, examples: str | Path | None = None) -> FileTask:
    """Read a task file (.jsonl, .parquet) whose layout is recognised by its fields, unless it is named.

    `shots` solved items stand before each: the first of `examples`, a file of the same layout, of the item's own subject where records name
    theirs (`subject` or `category`); or else the first of this file, which are then not asked. Raises `DataError` for a record that does
    not fit, `ConfigError` for a layout that does not exist or has no examples.
    """
    path = Path(path)
    found = records(path)
    name = layout or layout_of(*next(iter((record, source) for source, record in found)))
    if name not in LAYOUTS:
        raise ConfigError(f"There is no layout '{name}'; there is: {', '.join(LAYOUTS)}.")
    chosen = LAYOUTS[name]
    if examples is None and shots and len(found) <= shots:
        raise ConfigError(f"{path} has too few records for {shots} examples.")
    asked = found[shots:] if examples is None else found
    pool = found[:shots] if examples is None else records(Path(examples))
    origin = fingerprint_bytes(name, *(json.dumps(record, sort_keys=True) for _, record in asked))
    items = tuple(_item(chosen, name, source, record) for source, record in asked)
    before = _behind(chosen, name, asked, pool, shots, examples)
    return FileTask(f"{path.absolute().parent.name}/{path.stem}", chosen, items, before, origin)


def _behind(layout: Layout, name: str, asked: Records, pool: Records, shots: int, file: str | Path | None) -> tuple[str, ...]:
    """What stands before each item: the first examples, of its own subject where a file of examples and all items name theirs."""
    named = (field for field in SUBJECTS if all(isinstance(record.get(field), str) for _, record in [*asked, *pool]))
    field = next(named, None) if file else None
    shown: dict[Any, str] = {}
    subjects = [record[field] if field else None for _, record in asked]
    for subject in dict.fromkeys(subjects):
        own = [each for each in pool if not field or each[1][field] == subject][:shots]
        if len(own) < shots:
            raise ConfigError(f"{file} has too few records{f' of {field} {subject}' if field else ''} for {shots} examples.")
        shown[subject] = "".join(_solved(layout, name, *each) for each in own)
    return tuple(shown[subject] for subject in subjects)


def records(path: Path) -> Records:
    """Each record with where it stands; raises `DataError` for a file that holds none, or something else."""
    found = []
    for source, record in objects(Piece(str(path))):
        if isinstance(record, Problem):
            raise DataError(f"{record.sentence} A task file is a .jsonl or .parquet file, a record an item.")
        found.append((source, record))
    if not found:
        raise DataError(f"{path} has no record; a task needs at least one item.")
    return found


def _item(layout: Layout, name: str, source: str, record: dict[str, Any]) -> Item:
    if missing := [field for field in layout.needs if field not in record]:
        raise DataError(f"{source} lacks {', '.join(missing)}, which the layout '{name}' needs; it has: {', '.join(record)}.")
    try:
        return layout.item(record)
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        raise DataError(f"{source} is no item of the layout '{name}': {error}.") from None


def _solved(layout: Layout, name: str, source: str, record: dict[str, Any]) -> str:
    solved = _item(layout, name, source, record).solved
    if solved is None:
        raise ConfigError(f"The layout '{name}' has no examples with answers; ask without --few-shot.")
    return solved + BETWEEN
