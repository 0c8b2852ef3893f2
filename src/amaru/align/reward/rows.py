"""Rated and compared answers as rows: conversations up to the token at which they are scored, and their labels.

    rated      one answer a row, with a label for each attribute, NaN where it is missing
    compared   two answers a row, the better one first

There is no padding, and no token is predicted: a batch counts by its labels, or by its pairs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from amaru.align.comparisons import Answer, Comparison, Dropped, required
from amaru.config import Artifact, fingerprint_bytes
from amaru.data.loader import Loader, TrainingBatch, collate
from amaru.data.packing import IGNORED, Row
from amaru.errors import DataError
from amaru.models.reward.prompts import Prompts

KIND, SCHEMA = "reward rows", 1


@dataclass(frozen=True)
class RewardBatch(TrainingBatch):
    """`labels` float64 [sequences, attributes], NaN where missing, nothing for pairs; `count` is what the loss is a mean over."""

    labels: Tensor
    count: int

    @property
    def target_tokens(self) -> int:
        return self.count

    def to(self, device: torch.device | str) -> "RewardBatch":
        return replace(super().to(device), labels=self.labels.to(device))  # type: ignore[return-value,call-arg]


@dataclass(frozen=True)
class RewardRows:
    """`tokens` uint32 [stream]; `starts` int64, where each sequence begins in it, and its end; `labels` float64 [sequences, attributes];
    `pairs`: rows hold two sequences, else one; `sources` of each row. `row_length` is that of the longest.
    """

    tokens: np.ndarray
    starts: np.ndarray
    labels: np.ndarray
    pairs: bool
    sources: tuple[str, ...]
    made_from: dict[str, str]

    def __len__(self) -> int:
        return len(self.sources)

    def __str__(self) -> str:
        what = "pairs of answers" if self.pairs else f"answers with {self.targets:,} labels"
        return f"{len(self):,} {what}, {self.positions / len(self):,.0f} tokens each, the longest {self.row_length:,}"

    @property
    def row_length(self) -> int:
        return int(self.lengths(np.arange(len(self))).max())

    @property
    def positions(self) -> int:
        return len(self.tokens)

    @property
    def targets(self) -> int:
        return self.count(range(len(self)))

    @property
    def fingerprint(self) -> str:
        return "/".join(self.made_from.values())

    def row(self, index: int) -> Row:
        sequences = self._sequences([index])
        ids = self.tokens[self.starts[sequences[0]] : self.starts[sequences[-1] + 1]].astype(np.int64)
        return Row(ids, np.full(len(ids), IGNORED), self.starts[sequences] - self.starts[sequences[0]])

    def lengths(self, indices: np.ndarray) -> np.ndarray:
        return np.diff(self.starts[:: 1 + self.pairs])[indices]

    def documents_of(self, index: int) -> tuple[str, ...]:
        return (self.sources[index],)

    def count(self, indices: Sequence[int]) -> int:
        """Pairs, or labels, of some rows."""
        return len(indices) if self.pairs else int(np.isfinite(self.labels[self._sequences(indices)]).sum())

    def labelled(self, batch: TrainingBatch) -> RewardBatch:
        """A batch of these rows with what they are to be scored as."""
        labels = torch.from_numpy(self.labels[self._sequences(batch.rows)])
        return RewardBatch(**vars(batch), labels=labels, count=self.count(batch.rows))

    def in_order(self, tokens: int) -> Iterator[RewardBatch]:
        """Every row once, about so many tokens together."""
        group: list[int] = []
        size = 0
        for index, length in enumerate(self.lengths(np.arange(len(self))).tolist()):
            if group and size + length > tokens:
                yield self.labelled(collate(self, group))
                group, size = [], 0
            group.append(index)
            size += length
        yield self.labelled(collate(self, group))

    def save(self, path: str | Path) -> None:
        names = np.frombuffer("\0".join(self.sources).encode(), dtype=np.uint8)
        arrays = {"tokens": self.tokens, "starts": self.starts, "labels": self.labels, "sources": names}
        Artifact(kind=KIND, schema=SCHEMA, made_from=self.made_from, content={"pairs": self.pairs}, arrays=arrays).save(path)

    @classmethod
    def load(cls, path: str | Path, made_from: dict[str, str]) -> "RewardRows":
        """Read saved rows; raises `ArtifactError` when damaged, or made from other things than `made_from`."""
        artifact = Artifact.load(path, kind=KIND, schema=SCHEMA)
        artifact.require(made_from, path)
        sources = tuple(artifact.arrays.pop("sources").tobytes().decode().split("\0"))
        return cls(**artifact.arrays, **artifact.content, sources=sources, made_from=artifact.made_from)

    def _sequences(self, rows: Sequence[int]) -> np.ndarray:
        return (np.array(rows)[:, None] * (1 + self.pairs) + np.arange(1 + self.pairs)).ravel()


@dataclass(frozen=True)
class RewardLoader(Loader):
    """`RewardLoader(rows, batch_rows=128, seed=0)`: as `Loader`, each batch with its labels."""

    rows: RewardRows

    def batch(self, step: int, part: int = 0, parts: int = 1) -> RewardBatch:
        return self.rows.labelled(super().batch(step, part, parts))


def rated(some: Sequence[Comparison], prompts: Prompts, names: Sequence[str], longest: int) -> tuple[RewardRows, tuple[Dropped, ...]]:
    """Every answer by itself with its labels, and those that are not used: `rows, dropped = rated(found, prompts, HELPSTEER, 2048)`.

    Raises `DataError` when none is left.
    """
    dropped: list[Dropped] = []
    used = list(_without_values(some, dropped))
    kept = [(each, answer, ids) for each in used for answer in each.answers if (ids := _ids(each, answer, prompts, longest, dropped))]
    required(kept, dropped, f"{len(some):,} prompts")
    labels = [[answer.attributes.get(name, np.nan) for name in names] for _, answer, _ in kept]
    origin, sources = made_from(some, prompts, longest) | {"labels": " ".join(names)}, [each.source for each, *_ in kept]
    return _rows([ids for *_, ids in kept], np.array(labels, dtype=np.float64), False, sources, origin), tuple(dropped)


def compared(some: Sequence[Comparison], prompts: Prompts, longest: int) -> tuple[RewardRows, tuple[Dropped, ...]]:
    """Every pair of which one answer is better, and what is not used: a comparison in which one answer is too long, or none is better.

    Raises `DataError` when none is left.
    """
    dropped: list[Dropped] = []
    kept: list[list[int]] = []
    sources: list[str] = []
    for each in _without_values(some, dropped):
        if not each.pairs:
            dropped.append(Dropped(each.source, "no answer is better", f"{each.source}: its answers are as good as each other."))
            continue
        if (sides := _sides(each, prompts, longest, dropped)) is not None:
            kept += [sides[place] for pair in each.pairs for place in pair]
            sources += [each.source] * len(each.pairs)
    required(kept, dropped, f"{len(some):,} comparisons")
    return _rows(kept, np.zeros((len(kept), 0)), True, sources, made_from(some, prompts, longest)), tuple(dropped)


def made_from(some: Sequence[Comparison], prompts: Prompts, longest: int) -> dict[str, str]:
    """What determines rows, known before they are made."""
    return {
        "comparisons": fingerprint_bytes(*(each.identity for each in some)),
        "tokenizer": prompts.tokenizer.fingerprint,
        "prompt": fingerprint_bytes(prompts.pooled, prompts.system),
        "longest": str(longest),
    }


def _without_values(some: Sequence[Comparison], dropped: list[Dropped]) -> Iterator[Comparison]:
    """Those that need nothing but messages: a prompt of a reward model has no place for tools or documents."""
    for each in some:
        if each.values:
            what = f"it has {', '.join(each.values)}"
            dropped.append(Dropped(each.source, what, f"{each.source}: {what}, and answers are scored without."))
        else:
            yield each


def _sides(each: Comparison, prompts: Prompts, longest: int, dropped: list[Dropped]) -> list[list[int]] | None:
    """All answers of a comparison; None where one is not used, which is told once."""
    sides = []
    for answer in each.answers:
        if (ids := _ids(each, answer, prompts, longest, dropped)) is None:
            return None
        sides.append(ids)
    return sides


def _ids(each: Comparison, answer: Answer, prompts: Prompts, longest: int, dropped: list[Dropped]) -> list[int] | None:
    try:
        ids = prompts.ids([*each.messages, {"role": "assistant", "content": answer.text}])
    except DataError as error:
        dropped.append(Dropped(each.source, "not a conversation that is scored", f"{each.source}: {error}"))
        return None
    if len(ids) > longest:
        sentence = f"{each.source} has an answer of {len(ids):,} tokens with its prompt; --longest allows {longest:,}."
        dropped.append(Dropped(each.source, "too long", sentence))
        return None
    return ids


def _rows(
    sequences: Sequence[Sequence[int]], labels: np.ndarray, pairs: bool, sources: Sequence[str], origin: dict[str, str]
) -> RewardRows:
    starts = np.cumsum([0, *map(len, sequences)])
    return RewardRows(np.concatenate([np.array(ids, dtype=np.uint32) for ids in sequences]), starts, labels, pairs, (*sources,), origin)
