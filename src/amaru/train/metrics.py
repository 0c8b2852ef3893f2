"""What a run tells: one line of metrics.jsonl per step, and one live line for the person who waits."""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from amaru.config.atomic import atomic_file, storage_errors, sync
from amaru.errors import ArtifactError

MEASURED = ("loss", "grad_norm")  # what a step that went wrong has no number for
SMOOTHING = 0.9  # of the seconds per step that "time left" is reckoned with; recalls about ten steps


@dataclass(frozen=True, kw_only=True)
class StepMetrics:
    """One finished step.

    step       counts from 1; `epoch` from 0; `phase` by name
    loss       nats per target, before the step; `parts` and `validation` are further means by name
    tokens     targets of this step
    seconds    of this step without validation; `tokens_per_second` follows
    mfu        share of the measured matmul rate that forward and backward made use of; None where it was not measured
    memory     bytes in use (of the device where there is one, else of the process)
    event      "spike" or "not finite" (`guard` has the rule), else empty; `skipped`: nothing was learned from the step
    documents  of the batch, where there is an event
    """

    step: int
    epoch: int
    loss: float
    lr: float
    grad_norm: float
    tokens: int
    seconds: float
    tokens_per_second: float
    memory: int
    mfu: float | None = None
    phase: str = ""
    event: str = ""
    skipped: bool = False
    documents: tuple[str, ...] = ()
    parts: dict[str, float] = field(default_factory=dict)
    validation: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class History:
    """All steps of a run, those before an interruption included; `resumed_from` is the step this call began after."""

    steps: tuple[StepMetrics, ...]
    resumed_from: int

    @property
    def tokens(self) -> int:
        return sum(step.tokens for step in self.steps)

    @property
    def seconds(self) -> float:
        return sum(step.seconds for step in self.steps)

    @property
    def validation(self) -> dict[str, float]:
        """The last validation, empty if there was none."""
        return next((step.validation for step in reversed(self.steps) if step.validation), {})

    @property
    def best(self) -> int | None:
        return best_step(self.steps)


def best_step(steps: Sequence[StepMetrics]) -> int | None:
    """The step after which the validation loss was lowest (of equal ones the first); None where none was taken."""
    validated = [step for step in steps if "loss" in step.validation]
    return min(validated, key=lambda step: step.validation["loss"]).step if validated else None


def read(path: str | Path, limit: int | None = None) -> tuple[StepMetrics, ...]:
    """The (first `limit`) steps in a metrics.jsonl, none if there is no such file; a last line that was cut short does not count.

    Raises `ArtifactError` for any other damage in them.
    """
    path = Path(path)
    data = path.read_bytes() if path.exists() else b""
    try:
        return tuple(_step(json.loads(line)) for line in data.split(b"\n")[:-1][:limit])
    except (ValueError, TypeError) as error:
        raise ArtifactError(f"{path} is not a record of training steps ({error}); delete it and its checkpoints to start anew.") from None


class MetricsLog:
    """`with MetricsLog(out / "metrics.jsonl", finished=200) as log: log.write(metrics)`

    Opening cuts the file back to the `finished` steps of the checkpoint, so that no step stands there twice. Of several
    processes that train together one `writes`; the others read what was, and remember. Raises `ArtifactError` when it lacks
    some of these steps, `StorageError` when the disk is full.
    """

    def __init__(self, path: Path, finished: int, *, writes: bool = True) -> None:
        self.path = path
        self._writes = writes
        kept = read(path, limit=finished)
        if [metrics.step for metrics in kept] != list(range(1, finished + 1)):
            raise ArtifactError(f"{path} holds {len(kept)} of the {finished} steps that are done; delete {path.parent} to start anew.")
        self.steps = list(kept)
        if writes:
            with atomic_file(path) as temporary:
                temporary.write_text("".join(_line(metrics) for metrics in kept), encoding="utf-8")

    def __enter__(self) -> "MetricsLog":
        self._file = open(self.path if self._writes else os.devnull, "a", encoding="utf-8")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with storage_errors(self.path):
            self._file.close()

    def write(self, metrics: StepMetrics) -> None:
        with storage_errors(self.path):
            self._file.write(_line(metrics))
            self._file.flush()
        self.steps.append(metrics)

    def sync(self) -> None:
        """Make the lines as lasting as the checkpoint that is saved next."""
        if self._writes:
            with storage_errors(self.path):
                sync(self.path)


def _line(metrics: StepMetrics) -> str:
    """JSON has no NaN and no infinity: they are written as null."""
    values = asdict(metrics)
    return json.dumps(values | {name: None for name in MEASURED if not math.isfinite(values[name])}, allow_nan=False) + "\n"


def _step(values: dict[str, Any]) -> StepMetrics:
    values |= {name: math.nan for name in MEASURED if values.get(name, 0) is None}
    values["documents"] = tuple(values.get("documents", ()))
    return StepMetrics(**values)


class ProgressLine:
    """One line for people about each step, with the time that is left.

    >>> line = ProgressLine(steps=900)
    >>> line.text(metrics)
    'step 120/900  2 min left  loss 3.214  validation loss 3.305  11,802 tokens/s  MFU 41 %  1.41 GB  gradient 0.83'
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.validation: dict[str, float] = {}
        self.pace = 0.0

    @property
    def first(self) -> bool:
        """Whether no step was told yet."""
        return self.pace == 0.0

    def text(self, metrics: StepMetrics) -> str:
        self.pace = SMOOTHING * self.pace + (1 - SMOOTHING) * metrics.seconds if self.pace else metrics.seconds
        self.validation = metrics.validation or self.validation
        left = _duration((self.steps - metrics.step) * self.pace) + " left"
        parts = [f"step {metrics.step}/{self.steps}", left, f"loss {metrics.loss:.3f}"]  # what matters most first: terminals cut the end
        parts += [f"{name} {value:.3f}" for name, value in metrics.parts.items()]
        parts += [f"validation {name} {value:.3f}" for name, value in self.validation.items()]
        parts += [f"{metrics.tokens_per_second:,.0f} tokens/s"]
        parts += [] if metrics.mfu is None else [f"MFU {100 * metrics.mfu:.0f} %"]
        parts += [f"{metrics.memory / 1e9:.2f} GB", f"gradient {metrics.grad_norm:.2f}"]
        return "  ".join(parts)


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
