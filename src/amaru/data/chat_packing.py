"""Conversations laid into rows without cutting any: each begins from the zero state, and only the assistant's tokens are targets.

    row       s u u a a | s u a a a | ...      whole conversations, at most row_length tokens in all; there is no padding
    targets   - - a a - | - a a a - | ...      the next token where it is learned, - (IGNORED) elsewhere

The last token of a conversation predicts nothing, so it is not an input. A conversation that is longer than a row loses its last
turns or is left out, as the policy says, and is counted.
"""

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from amaru.config import Artifact, fingerprint_bytes
from amaru.data.chat import Ambiguous, Learned, Template
from amaru.data.conversations import Conversation
from amaru.data.packing import IGNORED, Row
from amaru.errors import ConfigError, DataError

KIND, SCHEMA = "packed conversations", 1
TooLong = Literal["drop", "cut"]
TURNS_CUT, TOO_LONG, AMBIGUOUS = "last turns cut", "longer than a row", "a token belongs to prompt and answer at once"


@dataclass(frozen=True)
class ChatRows:
    """Rows of whole conversations.

    `tokens` uint16 or uint32, `learned` bool [stream]; `starts` int64, where each conversation begins, and the stream's end;
    `sources` their names; `layout` int64, the numbers of conversations row by row, `borders` where each row begins in it, and its
    end; `counts` what was cut or left out, and why.
    """

    tokens: np.ndarray
    learned: np.ndarray
    starts: np.ndarray
    sources: tuple[str, ...]
    layout: np.ndarray
    borders: np.ndarray
    row_length: int
    counts: dict[str, int]
    made_from: dict[str, str]

    def __len__(self) -> int:
        return len(self.borders) - 1

    def __str__(self) -> str:
        full = self.positions / max(1, len(self) * self.row_length)
        notes = "".join(f"; {count:,} {reason}" for reason, count in self.counts.items())
        return (
            f"{len(self.sources):,} conversations in {len(self):,} rows of up to {self.row_length:,} tokens, {full:.0%} full; "
            f"{self.targets:,} of {self.positions:,} tokens are learned{notes}"
        )

    @property
    def positions(self) -> int:
        return len(self.tokens) - len(self.sources)

    @property
    def targets(self) -> int:
        return int(self.learned.sum())  # the first token of a conversation is never learned

    @property
    def fingerprint(self) -> str:
        return "/".join(self.made_from.values())

    def row(self, index: int) -> Row:
        pieces = [slice(self.starts[number], self.starts[number + 1]) for number in self._numbers(index)]
        ids = [self.tokens[piece][:-1].astype(np.int64) for piece in pieces]
        targets = [np.where(self.learned[piece], self.tokens[piece].astype(np.int64), IGNORED)[1:] for piece in pieces]
        starts = np.cumsum([0, *(len(part) for part in ids[:-1])])
        return Row(np.concatenate(ids), np.concatenate(targets), starts)

    def lengths(self, indices: np.ndarray) -> np.ndarray:
        return self._row_lengths[indices]

    def documents_of(self, index: int) -> tuple[str, ...]:
        return tuple(self.sources[number] for number in self._numbers(index))

    def conversation(self, number: int) -> Learned:
        """The tokens of one conversation, for people to look at."""
        piece = slice(self.starts[number], self.starts[number + 1])
        return Learned(self.tokens[piece].astype(np.int64), self.learned[piece])

    def save(self, path: str | Path) -> None:
        names = np.frombuffer("\0".join(self.sources).encode(), dtype=np.uint8)
        arrays = {name: getattr(self, name) for name in ("tokens", "starts", "layout", "borders")}
        arrays |= {"learned": self.learned.astype(np.uint8), "sources": names}
        content = {"row_length": self.row_length, "counts": self.counts}
        Artifact(kind=KIND, schema=SCHEMA, made_from=self.made_from, content=content, arrays=arrays).save(path)

    @classmethod
    def load(cls, path: str | Path, made_from: dict[str, str]) -> "ChatRows":
        """Read saved rows; raises `ArtifactError` when damaged, or made from other things than `made_from`."""
        artifact = Artifact.load(path, kind=KIND, schema=SCHEMA)
        artifact.require(made_from, path)
        arrays = artifact.arrays
        sources = tuple(arrays.pop("sources").tobytes().decode().split("\0"))
        learned = arrays.pop("learned").astype(bool)
        return cls(**arrays, **artifact.content, learned=learned, sources=sources, made_from=artifact.made_from)

    def _numbers(self, index: int) -> list[int]:
        return self.layout[self.borders[index] : self.borders[index + 1]].tolist()

    @cached_property
    def _row_lengths(self) -> np.ndarray:
        inputs = np.diff(self.starts)[self.layout] - 1
        return np.add.reduceat(inputs, self.borders[:-1])


def made_from(some: Sequence[Conversation], template: Template, row_length: int, too_long: TooLong, only_last: bool) -> dict[str, str]:
    """What determines the rows, known before they are made."""
    return {
        "conversations": fingerprint_bytes(*(each.identity for each in some)),
        "tokenizer": template.tokenizer.fingerprint,
        "template": fingerprint_bytes(template.source),
        "rows": f"{row_length} {too_long} {only_last}",
    }


def pack(
    some: Sequence[Conversation], template: Template, row_length: int, *, too_long: TooLong = "drop", only_last: bool = False
) -> ChatRows:
    """Conversations as tokens, laid into rows so that few places stay empty (best fit, the longest first).

    >>> rows = pack(conversations.found, template, row_length=2048, too_long="cut")

    Raises `DataError` when none fits into a row, and as `Template.learned` does.
    """
    counts: Counter[str] = Counter()
    kept: list[tuple[str, Learned]] = []
    for each in some:
        if (found := _fitting(each, template, row_length, too_long, only_last, counts)) is not None:
            kept.append((each.source, found))
    if not kept:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in counts.items())
        raise DataError(f"No conversation fits into rows of {row_length} tokens ({reasons}); give longer rows with --row-length.")
    lengths = [len(found.ids) for _, found in kept]
    rows = best_fit([length - 1 for length in lengths], row_length)
    dtype = np.uint16 if template.tokenizer.vocab_size <= 2**16 else np.uint32
    return ChatRows(
        tokens=np.concatenate([found.ids for _, found in kept]).astype(dtype),
        learned=np.concatenate([found.learned for _, found in kept]),
        starts=np.cumsum([0, *lengths]),
        sources=tuple(source for source, _ in kept),
        layout=np.concatenate(rows),
        borders=np.cumsum([0, *map(len, rows)]),
        row_length=row_length,
        counts=dict(counts),
        made_from=made_from(some, template, row_length, too_long, only_last),
    )


def best_fit(lengths: Sequence[int], room: int) -> list[list[int]]:
    """Which lengths share a row of `room`: the longest first, each where it leaves the least room."""
    rows: list[list[int]] = []
    free: list[tuple[int, int]] = []  # (room left, row), sorted
    for number in sorted(range(len(lengths)), key=lambda number: (-lengths[number], number)):
        place = bisect_left(free, (lengths[number], -1))
        left, row = free.pop(place) if place < len(free) else (room, len(rows))
        if row == len(rows):
            rows.append([])
        rows[row].append(number)
        insort(free, (left - lengths[number], row))
    return [sorted(row) for row in rows]


def _fitting(
    each: Conversation, template: Template, row_length: int, too_long: TooLong, only_last: bool, counts: Counter[str]
) -> Learned | None:
    """The tokens of a conversation, without its last turns where it is too long and the policy says so; None when it is left out."""
    messages = list(each.messages)
    while messages:
        try:
            found = template.learned(messages, each.values, only_last=only_last)
        except Ambiguous:
            counts[AMBIGUOUS] += 1
            return None
        except DataError as error:
            raise DataError(f"{each.source}: {error}") from None
        except ConfigError as error:
            counts[f"refused by the chat template ({_reason(error)})"] += 1
            return None
        if len(found.ids) - 1 <= row_length:
            if len(messages) < len(each.messages):
                counts[TURNS_CUT] += 1
            return found
        messages = _shorter(messages) if too_long == "cut" else []
    counts[TOO_LONG] += 1
    return None


def _reason(error: ConfigError) -> str:
    """What the template itself said."""
    return str(error).partition("these messages: ")[2].rstrip(".") or str(error)


def _shorter(messages: list) -> list:
    """Up to the answer before the last, so that every answer that stays is whole; empty when there is none."""
    answers = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    return messages[: answers[-2] + 1] if len(answers) > 1 else []
