"""Evaluation sets that other data must not hold: their items by every run of thirteen words, and where a text has one of them."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from amaru.data.files import LINES, PARQUET, Piece, Problem, objects, read
from amaru.data.near_duplicates import normal
from amaru.errors import DataError

RUN = 13  # words, as GPT-3 (Brown et al. 2020, appendix C) and most after it
SHORTEST = 5  # words of an item that is looked for as a whole; shorter ones say nothing


class Match(NamedTuple):
    """The item (`gsm8k.jsonl:12`) and the words that it shares with a text."""

    item: str
    words: str


class Contamination:
    """`Contamination([Path("gsm8k.jsonl")]).find(text)`: a `Match`, or None.

    A text is contaminated when it has `run` words in a row that an item has too, in lower case and without punctuation; an item of fewer
    words is looked for as a whole. An item is all text in a record, each field by itself, of `fields` where they are given; in a text
    file each line that is not blank. `items` counts them, `too_short` those under five words, which are not looked for.

    Raises `DataError` for a file that is missing, damaged, or in which nothing is looked for.
    """

    def __init__(self, files: Sequence[Path], run: int = RUN, fields: Sequence[str] = ()) -> None:
        self.files = tuple(files)
        self.run = run
        self.items = self.too_short = 0
        self._runs: dict[int, dict[int, str]] = {}  # by how many words: the hash of a run, and the first item that has it
        for path in files:
            before = self.items - self.too_short
            for name, texts in _items(path, fields):
                self._add(name, texts)
            if self.items - self.too_short == before:
                raise DataError(f"{path} has no item of {SHORTEST} words or more{_of(fields)}; look at its fields.")

    def find(self, text: str) -> Match | None:
        """The first of its words that an item has too."""
        words = normal(text).split()
        for run, items in self._runs.items():
            for first in range(len(words) - run + 1):
                some = words[first : first + run]
                if (item := items.get(hash(tuple(some)))) is not None:
                    return Match(item, " ".join(some))
        return None

    def _add(self, name: str, texts: Sequence[str]) -> None:
        self.items += 1
        of_texts = [words for text in texts if len(words := normal(text).split()) >= SHORTEST]
        self.too_short += not of_texts
        for words in of_texts:
            run = min(self.run, len(words))
            runs = self._runs.setdefault(run, {})
            for first in range(len(words) - run + 1):
                runs.setdefault(hash(tuple(words[first : first + run])), name)


def _items(path: Path, fields: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    if not path.is_file():
        raise DataError(f"There is no evaluation set {path}.")
    piece = Piece(str(path), name=path.name)
    if path.suffix.lower() not in LINES + PARQUET:
        for record in read(piece, ""):
            if record.problem:
                raise DataError(record.problem.sentence)
            yield from ((f"{record.source}:{number}", [line]) for number, line in enumerate(record.text.splitlines(), 1) if line.strip())
        return
    for name, record in objects(piece):
        if isinstance(record, Problem):
            raise DataError(record.sentence)
        yield name, [text for field, value in record.items() if not fields or field in fields for text in texts(value)]


def texts(value: Any) -> Iterator[str]:
    """All text in a value, however deep: choices of an answer, turns of a conversation."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from texts(inner)


def _of(fields: Sequence[str]) -> str:
    return f" in {', '.join(fields)}" if fields else ""
