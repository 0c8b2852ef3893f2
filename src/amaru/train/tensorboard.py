"""The record of a run for TensorBoard, beside metrics.jsonl: an optional package, on request."""

import math
from pathlib import Path
from types import TracebackType

from amaru.config.atomic import storage_errors
from amaru.errors import BackendError
from amaru.train.metrics import StepMetrics

FIGURES = ("loss", "lr", "grad_norm", "tokens_per_second", "mfu", "memory")


class TensorBoard:
    """`with TensorBoard(out / "tensorboard") as board: train(..., report=board.write)`; then `tensorboard --logdir OUT`.

    A resumed run begins with an event that takes back what stood there from its first step on, so no step is shown twice.
    Raises `BackendError` where the package is missing.
    """

    def __init__(self, directory: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise BackendError("--tensorboard needs the package tensorboard; install it with: pip install 'amaru[tensorboard]'") from None
        self._open = SummaryWriter
        self._directory = directory
        self._writer: SummaryWriter | None = None

    def __enter__(self) -> "TensorBoard":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._writer:
            with storage_errors(self._directory):
                self._writer.close()

    def write(self, metrics: StepMetrics) -> None:
        """Every figure of a step that is a finite number."""
        figures = {name: getattr(metrics, name) for name in FIGURES}
        figures |= {f"parts/{name}": value for name, value in metrics.parts.items()}
        figures |= {f"validation/{name}": value for name, value in metrics.validation.items()}
        with storage_errors(self._directory):
            self._writer = self._writer or self._open(str(self._directory), purge_step=metrics.step)
            for name, value in figures.items():
                if value is not None and math.isfinite(value):
                    self._writer.add_scalar(name, value, metrics.step)
            if metrics.event:
                self._writer.add_text("events", f"{metrics.event}: {', '.join(metrics.documents)}", metrics.step)
            if metrics.validation:
                self._writer.flush()
