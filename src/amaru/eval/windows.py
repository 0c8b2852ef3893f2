"""Strided windows: every token of a document is predicted once, behind at least so much context as its document allows.

    evaluate(decoder, windows(rows, length=1024, stride=256))     # at least 768 tokens of context, where there are so many
"""

from collections.abc import Iterator

import numpy as np
import torch

from amaru.data.loader import TrainingBatch
from amaru.data.packing import IGNORED, PackedRows
from amaru.errors import ConfigError


def windows(rows: PackedRows, length: int, stride: int, together: int = 1, limit: int | None = None) -> Iterator[TrainingBatch]:
    """Batches of `together` windows of at most `length` tokens, none across documents; each begins from the zero state `stride` tokens
    behind the one before, and predicts what that one did not.

    With `stride` = `length` these are documents cut into rows of their own. Raises `ConfigError` unless 0 < stride <= length.
    """
    if not 0 < stride <= length:
        raise ConfigError(f"A stride is at least 1 and at most the window of {length} tokens; got {stride}.")
    ends = [*rows.starts[1:].tolist(), len(rows.tokens)]
    spans = [
        (name, *span)
        for name, first, end in zip(rows.sources[:], rows.starts.tolist(), ends, strict=True)
        for span in _spans(first, end - 1, length, stride)
    ][:limit]
    for at in range(0, len(spans), together):
        yield _batch(rows, spans[at : at + together], at)


def _spans(first: int, last: int, length: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """Of inputs `first` to `last` - 1: where windows begin, where they end, and where their predictions begin."""
    done = first
    begin = first
    while done < last:
        end = min(begin + length, last)
        yield begin, end, done
        done, begin = end, begin + stride


def _batch(rows: PackedRows, spans: list[tuple[str, int, int, int]], number: int) -> TrainingBatch:
    parts, targets = [], []
    for _, begin, end, done in spans:
        parts.append(rows.tokens[begin:end].astype(np.int64))
        wanted = rows.tokens[begin + 1 : end + 1].astype(np.int64)
        wanted[: done - begin] = IGNORED
        targets.append(wanted)
    lengths = [len(part) for part in parts]
    return TrainingBatch(
        ids=torch.from_numpy(np.concatenate(parts)),
        targets=torch.from_numpy(np.concatenate(targets)),
        positions=torch.from_numpy(np.concatenate([np.arange(length) for length in lengths])),
        cu_seqlens=torch.from_numpy(np.cumsum([0, *lengths])),
        rows=tuple(range(number, number + len(spans))),
        documents=tuple(dict.fromkeys(name for name, *_ in spans)),
        epoch=0,
    )
