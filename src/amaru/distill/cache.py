"""What a teacher said, on disk: for every token the k most likely next ones and the mass of all others, memory-mapped.

    DIR/cache.json                 which teacher at which temperature, k, dtype; and of every whole shard its hash and sizes
    DIR/logits-00000.safetensors   ids uint16 or uint32 [n, k] and log_p float16 or float32 [n, k], the most likely first;
                                   rest float32 [n], log of the mass of all others; keys uint8 [pieces, 16], ends int64 [pieces]

With k = None the whole vocabulary is there: log_p [n, vocab] in its order, neither ids nor rest.

A teacher's answer depends on what stands before a token in its piece of a document and on nothing else, so pieces are found by a hash of
their tokens and targets. A cache serves any order, batch and seed of the text it was filled with, and no other text by mistake.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.autograd.function import once_differentiable

from amaru.config import Config, fingerprint_file, from_dict, to_dict
from amaru.config.records import read_record
from amaru.data.loader import TrainingBatch
from amaru.data.shards import Joined, mapped
from amaru.distill.teacher import Beside, Said
from amaru.errors import ArtifactError, ConfigError, DataError

KIND, SCHEMA, RECORD = "logit cache", 1, "cache.json"


class Kept(Config):
    """`Kept(top=128)`: what of a distribution is kept; `top` None: all of it. Stored numbers are log-probabilities."""

    top: int | None = Field(default=128, gt=0)
    stored: Literal["fp16", "fp32"] = "fp16"
    temperature: float = Field(default=1.0, gt=0)


class Shard(Config):
    file: str
    hash: str
    pieces: int
    tokens: int
    bytes: int


class Record(Config):
    """`cache.json`. `made_from` are hashes by name: teacher, tokenizer, and the arithmetic of the teacher."""

    kind: Literal["logit cache"] = KIND
    schema: Literal[1] = SCHEMA
    made_from: dict[str, str]
    kept: Kept
    vocab: int
    shards: tuple[Shard, ...] = ()

    @classmethod
    def load(cls, directory: Path) -> "Record":
        """Raises `ArtifactError` for a directory that holds no cache."""
        if not (directory / RECORD).exists():
            raise ArtifactError(f"{directory} holds no {KIND}: it has no {RECORD}. `amaru distill --cache-logits {directory}` fills one.")
        try:
            return from_dict(cls, read_record(directory / RECORD))
        except ConfigError as error:
            raise ArtifactError(f"{directory / RECORD} is no record of a {KIND}: {error}") from None

    def require(self, made_from: Mapping[str, str], kept: Kept, vocab: int, directory: Path) -> None:
        """Raise `ArtifactError` unless the cache was made of exactly these things."""
        there = {**self.made_from, **to_dict(self.kept), "vocabulary": self.vocab}
        wanted = {**made_from, **to_dict(kept), "vocabulary": vocab}
        for name in wanted:
            if there.get(name) != wanted[name]:
                raise ArtifactError(
                    f"The logit cache in {directory} was made with another {name} ({there.get(name)}, not {wanted[name]}); "
                    "give another directory, or delete this one."
                )


class Piece(NamedTuple):
    """A stretch of a document in a batch: its hash, and which of the batch's tokens with a target are its."""

    key: bytes
    counted: range


def pieces(batch: TrainingBatch) -> Iterator[Piece]:
    """The pieces of a batch in which something is to be predicted."""
    ids, targets, counted = batch.ids.cpu().numpy(), batch.targets.cpu().numpy(), batch.counted.cpu().numpy()
    before = np.concatenate([[0], np.cumsum(counted)])
    for first, end in pairwise(batch.cu_seqlens.tolist()):
        if before[first] < before[end]:
            digest = hashlib.blake2b(ids[first:end].tobytes(), digest_size=16)
            digest.update(targets[first:end].tobytes())
            yield Piece(digest.digest(), range(int(before[first]), int(before[end])))


class Place(NamedTuple):
    """Rows `first` to `end - 1` of a shard."""

    shard: int
    first: int
    end: int


@dataclass
class LogitCache:
    """`LogitCache.open("logits/")`: a `Teacher` that needs no model; `Distillation(cache)` learns from it.

    Every shard is read once when it is opened, to see that it is what was written; then nothing but the pieces that are asked for.
    """

    directory: Path
    record: Record
    _arrays: list[dict[str, np.ndarray]] = field(default_factory=list, repr=False)
    _index: dict[bytes, Place] = field(default_factory=dict, repr=False)

    @classmethod
    def open(cls, directory: str | Path) -> "LogitCache":
        """Raises `ArtifactError` when a shard is missing or is not what was written."""
        directory = Path(directory)
        cache = cls(directory, Record.load(directory))
        for shard in cache.record.shards:
            if not whole(directory, shard):
                raise ArtifactError(
                    f"{directory / shard.file} is missing or damaged; `amaru distill --cache-logits {directory}` makes it anew."
                )
            cache._add(directory / shard.file)
        return cache

    @property
    def temperature(self) -> float:
        return self.record.kept.temperature

    @property
    def tokens(self) -> int:
        return sum(shard.tokens for shard in self.record.shards)

    @property
    def bytes(self) -> int:
        return sum(shard.bytes for shard in self.record.shards)

    def __contains__(self, piece: Piece) -> bool:
        return piece.key in self._index

    def of(self, batch: TrainingBatch, layers: Sequence[int] = ()) -> Said:
        """Raises `DataError` for text that is not in the cache, `ConfigError` when hidden states are asked for."""
        if layers:
            raise ConfigError("A logit cache holds no hidden states; compare them with a teacher that runs along.")
        found = list(pieces(batch))
        if missing := [piece for piece in found if piece not in self]:
            raise DataError(
                f"{len(missing)} of {len(found)} pieces of a batch are not in the logit cache in {self.directory}: it was filled with "
                f"other text, or with rows of another length ({', '.join(batch.documents[:3])})."
            )
        return CachedSaid(self, [self._index[piece.key] for piece in found])

    def joined(self, name: str, places: Sequence[Place]) -> Joined:
        """The rows of an array at these places, end to end, of which slices are read."""
        parts = [self._arrays[place.shard][name][place.first : place.end] for place in places]
        return Joined(parts, [place.end - place.first for place in places])

    def _add(self, path: Path) -> None:
        names = ("log_p",) if self.record.kept.top is None else ("log_p", "ids", "rest")
        self._arrays.append({name: mapped(path, name) for name in names})
        first = 0
        for key, end in zip(mapped(path, "keys"), mapped(path, "ends").tolist(), strict=True):
            self._index[key.tobytes()] = Place(len(self._arrays) - 1, first, end)
            first = end


def whole(directory: Path, shard: Shard) -> bool:
    path = directory / shard.file
    return path.is_file() and path.stat().st_size == shard.bytes and fingerprint_file(path) == shard.hash


class CachedSaid:
    """What the cache holds of a batch; nothing is read before it is asked for."""

    hidden: Mapping[int, Tensor]

    def __init__(self, cache: LogitCache, places: Sequence[Place]) -> None:
        self.hidden = {}
        self._cache, self._temperature = cache, cache.temperature
        self._all = cache.record.kept.top is None
        self._arrays = {name: cache.joined(name, places) for name in (("log_p",) if self._all else ("log_p", "ids", "rest"))}

    def beside(self, logits: Tensor, rows: slice) -> Beside:
        if logits.shape[-1] != self._cache.record.vocab:
            raise ConfigError(
                f"The teacher has {self._cache.record.vocab} tokens and the student {logits.shape[-1]}; distillation needs one vocabulary."
            )
        log_q = torch.log_softmax(logits / self._temperature, dim=-1)
        log_p = self._read("log_p", rows, logits)
        if not self._all:
            ids = self._read("ids", rows, logits)
            log_p = torch.cat([log_p, self._read("rest", rows, logits)[:, None]], dim=-1)
            log_q = bucketed(log_q, ids)
        return Beside(log_p if self._cache.record.kept.stored == "fp32" else log_p.log_softmax(-1), log_q)

    def _read(self, name: str, rows: slice, like: Tensor) -> Tensor:
        found: Any = self._arrays[name][rows]
        dtype = torch.int64 if name == "ids" else torch.promote_types(like.dtype, torch.float32)
        return torch.from_numpy(found.astype(np.int64) if name == "ids" else found).to(like.device, dtype)


def bucketed(log_p: Tensor, ids: Tensor) -> Tensor:
    """[n, vocab] -> [n, k + 1]: the log-probabilities of the tokens `ids` [n, k], and that of all others together.

    The sum over the others is made of them, not of 1 less the rest, which would cancel.
    """
    return _Bucketed.apply(log_p, ids)  # type: ignore[no-any-return]


class _Bucketed(torch.autograd.Function):
    """What autograd would make of the two lines passes over the vocabulary and the tokens twice as often."""

    @staticmethod
    def forward(ctx: Any, log_p: Tensor, ids: Tensor) -> Tensor:
        others = log_p.scatter(-1, ids, -torch.inf).logsumexp(-1, keepdim=True)
        ctx.save_for_backward(log_p, ids, others)
        return torch.cat([log_p.gather(-1, ids), others], dim=-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        log_p, ids, others = ctx.saved_tensors
        shares = (log_p - others).exp_().mul_(grad[:, -1:])  # of the tokens `ids` it may be anything: they are written over
        return shares.scatter_(-1, ids, grad[:, :-1]), None
