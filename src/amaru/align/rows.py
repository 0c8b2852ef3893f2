"""Comparisons as tokens: one row each, in which every answer stands behind the prompt as a sequence of its own.

    row       p p p a a | p p p b b b | ...     all answers to one prompt; there is no padding
    targets   - - a a . | - - b b b . | ...     the next token where it belongs to an answer, - (IGNORED) elsewhere

The last token of an answer is the control token that ends it; it predicts nothing and is not an input.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from amaru.align.comparisons import Comparison, Dropped, Message, required, told, without_first_turn
from amaru.align.losses import Groups, mean_over
from amaru.config import Artifact, fingerprint_bytes
from amaru.data.chat import Ambiguous, Template
from amaru.data.packing import IGNORED, Row
from amaru.errors import ConfigError, DataError

KIND, SCHEMA = "packed comparisons", 1
TooLong = Literal["drop", "cut"]
COUNTED_AT_ONCE = 4096  # comparisons
TURNS_CUT, ENDS_CUT = "comparisons lost their first turns", "answers lost their end"


@dataclass(frozen=True)
class ComparisonRows:
    """Rows for `Loader` and `in_order`, each one comparison.

    `tokens` uint16 or uint32 [stream]; `starts` int64, where each answer's sequence begins in it, and its end; `prompts` int64, how many
    tokens of each are prompt; `borders` int64, which answer is each comparison's first, and how many there are; `rewards` float64 of each
    answer, NaN without; `best_first` bool of each comparison; `counts` what was cut, `dropped` what is not
    here. `row_length` is that of the longest row.
    """

    tokens: np.ndarray
    starts: np.ndarray
    prompts: np.ndarray
    borders: np.ndarray
    rewards: np.ndarray
    best_first: np.ndarray
    sources: tuple[str, ...]
    counts: dict[str, int]
    made_from: dict[str, str]
    dropped: tuple[Dropped, ...] = ()

    def __len__(self) -> int:
        return len(self.borders) - 1

    def __str__(self) -> str:
        notes = "".join(f"; {count:,} {reason}" for reason, count in self.counts.items())
        return (
            f"{len(self):,} comparisons of {len(self.prompts):,} answers, {self.answer_lengths.mean():.0f} tokens each behind "
            f"{self.prompts.mean():.0f} of prompt{notes}{told(self.dropped)}"
        )

    @property
    def row_length(self) -> int:
        return self._longest

    @cached_property
    def _longest(self) -> int:
        return int(self.lengths(np.arange(len(self))).max())

    @property
    def positions(self) -> int:
        return len(self.tokens) - len(self.prompts)

    @property
    def targets(self) -> int:
        return int(self.answer_lengths.sum())

    @cached_property
    def answer_lengths(self) -> np.ndarray:
        return np.diff(self.starts) - self.prompts

    @cached_property
    def answer_starts(self) -> np.ndarray:
        """Where each comparison begins among the tokens of all answers, and their end."""
        return np.concatenate([[0], np.cumsum(self.answer_lengths)])[self.borders]

    @property
    def fingerprint(self) -> str:
        return "/".join(self.made_from.values())

    def row(self, index: int) -> Row:
        ids, targets = [], []
        for answer in self.answers(index):
            piece = self.tokens[self.starts[answer] : self.starts[answer + 1]].astype(np.int64)
            ids.append(piece[:-1])
            targets.append(np.where(np.arange(1, len(piece)) < self.prompts[answer], IGNORED, piece[1:]))
        starts = np.cumsum([0, *(len(part) for part in ids[:-1])])
        return Row(np.concatenate(ids), np.concatenate(targets), starts)

    def lengths(self, indices: np.ndarray) -> np.ndarray:
        ends = self.starts[self.borders]
        return (ends[1:] - ends[:-1] - np.diff(self.borders))[indices]

    def documents_of(self, index: int) -> tuple[str, ...]:
        return (self.sources[index],)

    def answers(self, index: int) -> range:
        """The numbers of a comparison's answers."""
        return range(int(self.borders[index]), int(self.borders[index + 1]))

    def groups(self, indices: Sequence[int]) -> Groups:
        """The answers of a batch of these rows, comparison by comparison."""
        counts = np.diff(self.borders)[list(indices)]
        real = np.arange(counts.max()) < counts[:, None]
        place = np.where(real, np.cumsum(real.ravel()).reshape(real.shape) - 1, 0)
        rewards = np.zeros(real.shape)
        rewards[real] = np.concatenate([self.rewards[self.borders[i] : self.borders[i + 1]] for i in indices])
        known, order = ~np.isnan(rewards), np.arange(real.shape[1])
        first = self.best_first[list(indices)][:, None, None] & (order[:, None] < order)
        better = (first | (rewards[:, :, None] > rewards[:, None, :])) & real[:, :, None] & real[:, None, :]
        unbeaten, beaten_by_none = real & ~better.any(1), real & ~better.any(2)
        arrays = place, real, np.where(known, rewards, 0.0), better, _shares(unbeaten), _shares(beaten_by_none)
        return Groups(*(torch.from_numpy(each) for each in arrays))

    def gap(self) -> float:
        """How far the rewards of two answers to one prompt are apart, on average; NaN without rewards."""
        if np.isnan(self.rewards).any():
            return np.nan
        some = (self.groups(part) for part in self._parts())
        apart = [mean_over((g.rewards[:, :, None] - g.rewards[:, None, :]).abs(), g.pairs) for g in some]
        return torch.cat(apart).mean().item()

    def longer(self) -> float:
        """The share of preferences in which the better answer is the longer one; ties count half."""
        longer, count = 0.0, 0
        for part in self._parts():
            g = self.groups(part)
            lengths = torch.from_numpy(self.answer_lengths[self.borders[part.start] : self.borders[part.stop]])[g.place]
            sign = (lengths[:, :, None] - lengths[:, None, :]).sign()[g.better]
            longer, count = longer + ((sign + 1) / 2).sum().item(), count + len(sign)
        return longer / count if count else 0.5

    def _parts(self) -> list[range]:
        return [range(first, min(first + COUNTED_AT_ONCE, len(self))) for first in range(0, len(self), COUNTED_AT_ONCE)]

    def save(self, path: str | Path) -> None:
        names = np.frombuffer("\0".join(self.sources).encode(), dtype=np.uint8)
        arrays = {name: getattr(self, name) for name in ("tokens", "starts", "prompts", "borders", "rewards")}
        arrays |= {"best_first": self.best_first.astype(np.uint8), "sources": names}
        content = {"counts": self.counts, "dropped": self.dropped}
        Artifact(kind=KIND, schema=SCHEMA, made_from=self.made_from, content=content, arrays=arrays).save(path)

    @classmethod
    def load(cls, path: str | Path, made_from: dict[str, str]) -> "ComparisonRows":
        """Read saved rows; raises `ArtifactError` when damaged, or made from other things than `made_from`."""
        artifact = Artifact.load(path, kind=KIND, schema=SCHEMA)
        artifact.require(made_from, path)
        arrays = artifact.arrays
        sources = tuple(arrays.pop("sources").tobytes().decode().split("\0"))
        best_first = arrays.pop("best_first").astype(bool)
        counts, dropped = artifact.content["counts"], tuple(Dropped(*each) for each in artifact.content["dropped"])
        return cls(**arrays, counts=counts, dropped=dropped, best_first=best_first, sources=sources, made_from=artifact.made_from)


def _shares(among: np.ndarray) -> np.ndarray:
    return among / among.sum(-1, keepdims=True)


def made_from(some: Sequence[Comparison], template: Template, longest: int, too_long: TooLong) -> dict[str, str]:
    """What determines the rows, known before they are made."""
    return {
        "comparisons": fingerprint_bytes(*(each.identity for each in some)),
        "tokenizer": template.tokenizer.fingerprint,
        "template": fingerprint_bytes(template.source),
        "rows": f"{longest} {too_long}",
    }


def pack(some: Sequence[Comparison], template: Template, longest: int, *, too_long: TooLong = "drop") -> ComparisonRows:
    """Comparisons as rows: `pack(comparisons.found, template, longest=2048)`.

    longest   input tokens of a prompt with one answer
    too_long  drop a comparison with a longer one; or cut: the first turns of the prompt go (a system message stays), then ends of answers

    Raises `DataError` when nothing is left, and when the template writes control tokens that the tokenizer lacks.
    """
    packer = _Packer(template, longest, too_long, Counter(), [])
    kept = [(each, pieces) for each in some if (pieces := packer.pieces(each)) is not None]
    required(kept, packer.dropped, f"{len(some):,} rows")
    flat = [piece for _, pieces in kept for piece in pieces]
    dtype = np.uint16 if template.tokenizer.vocab_size <= 2**16 else np.uint32
    rewards = [np.nan if answer.reward is None else answer.reward for each, _ in kept for answer in each.answers]
    return ComparisonRows(
        tokens=np.concatenate([ids for ids, _ in flat]).astype(dtype),
        starts=np.cumsum([0, *(len(ids) for ids, _ in flat)]),
        prompts=np.array([prompt for _, prompt in flat]),
        borders=np.cumsum([0, *(len(pieces) for _, pieces in kept)]),
        rewards=np.array(rewards, dtype=np.float64),
        best_first=np.array([each.best_first for each, _ in kept]),
        sources=tuple(each.source for each, _ in kept),
        counts={reason: count for reason, count in packer.counts.items() if count},
        made_from=made_from(some, template, longest, too_long),
        dropped=tuple(packer.dropped),
    )


Piece = tuple[np.ndarray, int]  # the tokens of a prompt with one answer, and how many are prompt


@dataclass(frozen=True)
class _Packer:
    template: Template
    longest: int
    too_long: TooLong
    counts: Counter[str]
    dropped: list[Dropped]

    def pieces(self, each: Comparison) -> list[Piece] | None:
        """Every answer of a comparison behind its prompt; None where it is not used, which is noted."""
        refuse = self._refusal(each)
        try:
            messages, whole = self._fitting(each)
        except Ambiguous as error:
            return refuse("a token belongs to prompt and answer at once", str(error))
        except DataError as error:
            raise DataError(f"{each.source}: {error}") from None
        except ConfigError as error:
            return refuse("refused by the chat template", str(error))
        pieces = [(ids[: self.longest + 1], prompt) for ids, prompt in whole]
        shortened = sum(len(ids) - 1 > self.longest for ids, _ in whole)
        if shortened and self.too_long == "drop":
            return refuse("too long", f"it has more than {self.longest:,} tokens; cut such ones with --too-long cut, or give --longest.")
        if not all(0 < prompt < len(ids) for ids, prompt in pieces):
            return refuse("an empty side", f"prompt or answer have no token among the first {self.longest:,}.")
        if len({ids.tobytes() for ids, _ in pieces}) < len(pieces):
            return refuse("equal answers once they are cut", "two answers are the same tokens, so there is nothing to prefer.")
        self.counts[TURNS_CUT] += len(messages) < len(each.messages)
        self.counts[ENDS_CUT] += shortened
        return pieces

    def _fitting(self, each: Comparison) -> tuple[list[Message], list[Piece]]:
        """The prompt without as many first turns as it takes for every answer to fit, where the policy says so, and the sequences."""
        messages = list(each.messages)
        while True:
            pieces = [self._piece([*messages, {"role": "assistant", "content": answer.text}], each) for answer in each.answers]
            shorter = without_first_turn(messages) if self.too_long == "cut" else None
            if shorter is None or all(len(ids) - 1 <= self.longest for ids, _ in pieces):
                return messages, pieces
            messages = shorter

    def _piece(self, messages: list[Message], each: Comparison) -> Piece:
        found = self.template.learned(messages, each.values, only_last=True)
        places = found.learned.nonzero()[0]
        return (found.ids[: places[-1] + 1], int(places[0])) if len(places) else (found.ids, len(found.ids))

    def _refusal(self, each: Comparison) -> Callable[[str, str], None]:
        return lambda reason, sentence: self.dropped.append(Dropped(each.source, reason, f"{each.source}: {sentence}"))
