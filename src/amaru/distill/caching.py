"""Filling a logit cache: the teacher runs on the batches of a run, and what is there already is not computed again."""

import fcntl
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from amaru.config import Artifact, atomic_file, fingerprint_file, to_dict
from amaru.config.atomic import storage_errors
from amaru.data.loader import TrainingBatch
from amaru.distill.cache import KIND, RECORD, SCHEMA, Kept, LogitCache, Piece, Record, Shard, bucketed, pieces, whole
from amaru.distill.teacher import LiveSaid, LiveTeacher, chunk_of
from amaru.errors import ArtifactError
from amaru.models.decoder import Decoder

SHARD_BYTES = 2**26
STORED = {"fp16": np.float16, "fp32": np.float32}


def fill(
    directory: str | Path,
    batches: Iterable[TrainingBatch],
    teacher: Callable[[], Decoder],
    made_from: Mapping[str, str],
    vocab: int,
    kept: Kept,
    *,
    seconds: float = 60.0,
    chunk_tokens: int | None = None,
    progress: Callable[[int], object] = lambda tokens: None,
) -> LogitCache:
    """The cache of what `teacher()` says of some batches, computed where it is missing; the teacher is made when something is.

    >>> cache = fill("logits", (loader.batch(step) for step in range(900)), lambda: parent, {"teacher": "9f…"}, 4096, Kept(top=128))
    >>> Distillation(cache)

    A shard is written whenever 64 MiB are full or `seconds` have passed: what a kill costs at most. A damaged shard is removed, and
    what it held is computed again. `progress` gets the number of tokens that were computed so far. Raises `ArtifactError` for a
    cache of other things (`made_from`, `kept`, `vocab`), and while another process fills it; `StorageError` on a full disk.
    """
    directory = Path(directory)
    if kept.top is not None and kept.top >= vocab:
        kept = replace(kept, top=None)
    with alone(directory):
        cache = _begun(directory, made_from, kept, vocab)
        writer, live, seen, done = _Writer(cache), None, set[bytes](), 0
        for batch in batches:
            each = {piece.key: piece for piece in pieces(batch)}.values()
            new = [piece for piece in each if piece not in cache and piece.key not in seen]
            if not new:
                continue
            live = live or LiveTeacher(teacher(), kept.temperature)
            said = _said(live, batch, kept, chunk_tokens or chunk_of(vocab))
            for piece in new:
                writer.add(piece, {name: array[piece.counted.start : piece.counted.stop] for name, array in said.items()})
                seen.add(piece.key)
                done += len(piece.counted)
            progress(done)
            writer.flush(SHARD_BYTES, seconds)
        writer.flush(0, 0.0)
    return LogitCache.open(directory)


Rows = dict[str, np.ndarray]


def _said(teacher: LiveTeacher, batch: TrainingBatch, kept: Kept, chunk_tokens: int) -> Rows:
    """What is kept of a batch, [tokens with a target]; it runs whole and in the chunks of training, so that the bits are those."""
    said = teacher.of(batch)
    assert isinstance(said, LiveSaid)
    starts = range(0, len(said.last), chunk_tokens)
    chunks = [_reduced(said.log_p(slice(first, first + chunk_tokens)), kept) for first in starts]
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


def _reduced(log_p: Tensor, kept: Kept) -> Rows:
    if kept.top is None:
        return {"log_p": _array(log_p, kept)}
    ids = log_p.topk(kept.top, dim=-1).indices
    buckets = bucketed(log_p, ids)
    dtype = np.uint16 if log_p.shape[-1] <= 2**16 else np.uint32
    rest = buckets[:, -1].to("cpu", torch.float32).numpy()
    return {"log_p": _array(buckets[:, :-1], kept), "ids": ids.cpu().numpy().astype(dtype), "rest": rest}


def _array(log_p: Tensor, kept: Kept) -> np.ndarray:
    dtype = STORED[kept.stored]
    return log_p.cpu().numpy().clip(np.finfo(dtype).min).astype(dtype)


class _Writer:
    """Pieces in memory until they are worth a shard."""

    def __init__(self, cache: LogitCache) -> None:
        self._cache, self._waiting = cache, list[tuple[Piece, Rows]]()
        self._bytes, self._since = 0, time.monotonic()

    def add(self, piece: Piece, rows: Rows) -> None:
        self._waiting.append((piece, rows))
        self._bytes += sum(array.nbytes for array in rows.values())

    def flush(self, least_bytes: int, least_seconds: float) -> None:
        """Write what waits, if it is so much or has waited so long."""
        if not self._waiting or (self._bytes < least_bytes and time.monotonic() - self._since < least_seconds):
            return
        directory, record = self._cache.directory, self._cache.record
        number = max((int(shard.file.split("-")[1].split(".")[0]) for shard in record.shards), default=-1) + 1
        path = directory / f"logits-{number:05d}.safetensors"
        lengths = [len(piece.counted) for piece, _ in self._waiting]
        arrays = {name: np.concatenate([rows[name] for _, rows in self._waiting]) for name in self._waiting[0][1]}
        arrays["keys"] = np.frombuffer(b"".join(piece.key for piece, _ in self._waiting), np.uint8).reshape(-1, 16)
        arrays["ends"] = np.cumsum(lengths, dtype=np.int64)
        Artifact(kind=KIND, schema=SCHEMA, made_from=record.made_from, arrays=arrays).save(path)
        size, tokens = path.stat().st_size, sum(lengths)
        shard = Shard(file=path.name, hash=fingerprint_file(path), pieces=len(lengths), tokens=tokens, bytes=size)
        self._cache.record = replace(record, shards=(*record.shards, shard))
        _write(directory, self._cache.record)
        self._waiting, self._bytes, self._since = [], 0, time.monotonic()


@contextmanager
def alone(directory: Path) -> Iterator[None]:
    """The directory, made if it is not there, with nobody else filling it; raises `ArtifactError` where somebody is."""
    with storage_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
        lock = (directory / ".lock").open("w")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ArtifactError(f"Another process is filling {directory}; wait for it, or give another directory.") from None
        yield


def _begun(directory: Path, made_from: Mapping[str, str], kept: Kept, vocab: int) -> LogitCache:
    """The cache as it is, without what is damaged or half written; a new one where there is none."""
    if (directory / RECORD).exists():
        record = Record.load(directory)
        record.require(made_from, kept, vocab, directory)
    else:
        record = Record(made_from=dict(made_from), kept=kept, vocab=vocab)
    record = replace(record, shards=tuple(shard for shard in record.shards if whole(directory, shard)))
    for path in {*directory.glob("logits-*.safetensors"), *directory.glob(".logits-*.partial")}:
        if path.name not in {shard.file for shard in record.shards}:
            path.unlink()
    _write(directory, record)
    return LogitCache.open(directory)


def _write(directory: Path, record: Record) -> None:
    with atomic_file(directory / RECORD) as temporary:
        temporary.write_text(json.dumps(to_dict(record), indent=2) + "\n", encoding="utf-8")
