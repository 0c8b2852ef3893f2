"""What a reference said of comparisons, on disk, so that it runs once and not beside the training.

    DIR/said-000000.safetensors    log_p float32 (or float64) [tokens of answers] of some passes; in its header which, and a hash

Rows go through the model in passes that are cut in one way only, whoever asks: what a kill or a damaged file costs is computed again to
the bit.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from amaru.align.reference import Live
from amaru.align.rows import ComparisonRows
from amaru.config import Artifact, fingerprint_bytes
from amaru.data.loader import TrainingBatch, collate
from amaru.distill.caching import alone
from amaru.errors import ArtifactError
from amaru.models.decoder import Decoder

KIND, SCHEMA = "what a reference said", 1
PASS_TOKENS = 8192  # input tokens at once, or a whole comparison


@dataclass(frozen=True)
class Cached:
    """`Cached(rows, log_p)`: log_p [tokens of all answers], in the order of the rows. A `Reference` that needs no model."""

    rows: ComparisonRows
    log_p: Tensor

    def of(self, model: Decoder, batch: TrainingBatch) -> Tensor:
        starts = self.rows.answer_starts
        return torch.cat([self.log_p[starts[row] : starts[row + 1]] for row in batch.rows]).to(batch.ids.device)


def fill(
    directory: str | Path,
    rows: ComparisonRows,
    model: Callable[[], Decoder],
    made_from: Mapping[str, str],
    *,
    seconds: float = 60.0,
    progress: Callable[[int], object] = lambda tokens: None,
) -> Cached:
    """What `model()` says of all rows, computed where it is missing; the model is made when something is.

    >>> reference = fill("said", rows, lambda: load("runs/sft/model"), {"reference": "9f…", "arithmetic": "bf16"})

    `seconds` of work are what a kill costs at most. `progress` gets the tokens that were computed. Raises `ArtifactError` while another
    process fills the directory, and when it holds what another model said, or of other rows.
    """
    directory, origin = Path(directory), {**made_from, "rows": rows.fingerprint}
    with alone(directory):
        found, cut = _found(directory, origin), passes(rows)
        waiting: dict[int, Tensor] = {}
        live, since, done = None, time.monotonic(), 0
        for number in [number for number in range(len(cut)) if number not in found]:
            live = live or Live(model())
            waiting[number] = live.of(live.decoder, collate(rows, cut[number])).cpu()
            done += len(waiting[number])
            progress(done)
            if time.monotonic() - since >= seconds:
                found |= _written(directory, waiting, origin)
                waiting, since = {}, time.monotonic()
        found |= _written(directory, waiting, origin)
    return Cached(rows, torch.cat([found[number] for number in range(len(cut))]))


def passes(rows: ComparisonRows) -> list[range]:
    """Neighbouring rows that go through the model together."""
    lengths, found, first, held = rows.lengths(np.arange(len(rows))), [], 0, 0
    for row, length in enumerate(lengths.tolist()):
        if held and held + length > PASS_TOKENS:
            found.append(range(first, row))
            first, held = row, 0
        held += length
    return [*found, range(first, len(rows))]


def _found(directory: Path, origin: dict[str, str]) -> dict[int, Tensor]:
    """The passes that lie there whole; a damaged file is removed."""
    found: dict[int, Tensor] = {}
    for path in sorted(directory.glob("said-*.safetensors")):
        try:
            held = Artifact.load(path, kind=KIND, schema=SCHEMA)
        except ArtifactError:
            path.unlink()
            continue
        held.require(origin, path)
        log_p = held.arrays["log_p"]
        if _hash(log_p) != held.content["hash"]:
            path.unlink()
            continue
        parts = torch.from_numpy(log_p).split(held.content["lengths"])
        found |= dict(zip(held.content["passes"], parts, strict=True))
    return found


def _written(directory: Path, waiting: dict[int, Tensor], origin: dict[str, str]) -> dict[int, Tensor]:
    if waiting:
        log_p = torch.cat(list(waiting.values())).numpy()
        content = {"passes": list(waiting), "lengths": [len(each) for each in waiting.values()], "hash": _hash(log_p)}
        artifact = Artifact(kind=KIND, schema=SCHEMA, made_from=origin, content=content, arrays={"log_p": log_p})
        artifact.save(directory / f"said-{min(waiting):06d}.safetensors")
    return waiting


def _hash(log_p: np.ndarray) -> str:
    return fingerprint_bytes(str(log_p.dtype), log_p.tobytes())
