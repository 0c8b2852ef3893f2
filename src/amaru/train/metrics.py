"""What a run tells: one line of metrics.jsonl per step, and one live line for the person who waits."""

import json
import math
import os
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from types import TracebackType

from amaru.config.atomic import storage_errors, sync
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


class Past:
    """What a run remembers of its finished steps, however many they are.

        past.add(metrics)

    phase, losses  of the last steps that were learned from in one phase, `window` of them at most
    skipped        how many were skipped since
    best           the step with the lowest validation loss (of equal ones the first); None where none was taken
    """

    def __init__(self, window: int) -> None:
        self.phase, self.skipped = "", 0
        self.losses: deque[float] = deque(maxlen=window)
        self.best: int | None = None
        self._lowest = math.inf

    def add(self, step: StepMetrics) -> None:
        if step.phase != self.phase:
            self.phase = step.phase
            self.losses.clear()
        self.skipped = self.skipped + 1 if step.skipped else 0
        if not step.skipped:
            self.losses.append(step.loss)
        if (loss := step.validation.get("loss", math.inf)) < self._lowest:
            self.best, self._lowest = step.step, loss


@dataclass(frozen=True)
class History:
    """A finished run: `resumed_from` is the step this call began after, `best` that of the lowest validation loss, if it was taken."""

    path: Path
    resumed_from: int
    best: int | None

    @property
    def steps(self) -> tuple[StepMetrics, ...]:
        """All of them, those before an interruption included, read from the record."""
        return read(self.path)


def read(path: str | Path) -> tuple[StepMetrics, ...]:
    """The steps in a metrics.jsonl, none if there is no such file; a last line that was cut short does not count.

    Raises `ArtifactError` for any other damage in them.
    """
    return tuple(step for step, _ in _scan(Path(path)))


def _scan(path: Path) -> Iterator[tuple[StepMetrics, int]]:
    """Step by step, and where its line ends in the file."""
    end = 0
    with open(path if path.exists() else os.devnull, "rb") as file:
        for line in file:
            end += len(line)
            if line.endswith(b"\n"):
                yield _step(line, path), end


class MetricsLog:
    """`with MetricsLog(out / "metrics.jsonl", finished=200, past=Past(100)) as log: log.write(metrics)`

    Opening cuts the file back to the `finished` steps of the checkpoint, so that no step stands there twice, and tells `past` of
    them. Of several processes that train together one `writes`; the others read what was. Raises `ArtifactError` when it lacks
    some of these steps, `StorageError` when the disk is full.
    """

    def __init__(self, path: Path, finished: int, past: Past, *, writes: bool = True) -> None:
        self.path, self.past = path, past
        self._writes = writes
        whole, place = 0, 0
        for step, end in islice(_scan(path), finished):
            if step.step == whole + 1:
                whole, place = step.step, end
            past.add(step)
        if whole != finished:
            raise ArtifactError(f"{path} holds {whole} of the {finished} steps that are done; delete {path.parent} to start anew.")
        if writes:
            with storage_errors(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
                os.truncate(path, place)

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
        self.past.add(metrics)

    def sync(self) -> None:
        """Make the lines as lasting as the checkpoint that is saved next."""
        if self._writes:
            with storage_errors(self.path):
                sync(self.path)


def _line(metrics: StepMetrics) -> str:
    """JSON has no NaN and no infinity: they are written as null."""
    values = asdict(metrics)
    return json.dumps(values | {name: None for name in MEASURED if not math.isfinite(values[name])}, allow_nan=False) + "\n"


def _step(line: bytes, path: Path) -> StepMetrics:
    try:
        values = json.loads(line)
        values |= {name: math.nan for name in MEASURED if values.get(name, 0) is None}
        values["documents"] = tuple(values.get("documents", ()))
        return StepMetrics(**values)
    except (ValueError, TypeError) as error:
        raise ArtifactError(f"{path} is not a record of training steps ({error}); delete it and its checkpoints to start anew.") from None


class ProgressLine:
    """One line for people about each step, with the time that is left; `unit` is what the loss is a mean over.

    >>> line = ProgressLine(steps=900)
    >>> line.text(metrics)
    'step 120/900  2 min left  loss 3.214  validation loss 3.305  11,802 tokens/s  MFU 41 %  1.41 GB  gradient 0.83'
    """

    def __init__(self, steps: int, unit: str = "tokens") -> None:
        self.steps, self.unit = steps, unit
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
        parts += [f"{metrics.tokens_per_second:,.0f} {self.unit}/s"]
        parts += [] if metrics.mfu is None else [f"MFU {100 * metrics.mfu:.0f} %"]
        parts += [f"{metrics.memory / 1e9:.2f} GB", f"gradient {metrics.grad_norm:.2f}"]
        return "  ".join(parts)


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
