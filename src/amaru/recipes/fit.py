"""One trained checkpoint: the step that train, distill, compress and the demo share."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from amaru.config import fingerprint_bytes
from amaru.data.loader import Batches, Loader, in_order
from amaru.eval.perplexity import evaluate
from amaru.models.decoder import Decoder
from amaru.recipes.pace import matmul_rate
from amaru.recipes.run import Run
from amaru.recipes.text import Text
from amaru.train.loop import train
from amaru.train.metrics import ProgressLine, StepMetrics
from amaru.train.objective import Objective
from amaru.train.settings import TrainConfig
from amaru.train.step import named

VALIDATED_ROWS = 32  # while training; the final figures use all of them
DRAWN_POINTS = 60  # of the record of what was drawn from each source


def fit(
    run: Run,
    name: str,
    text: Text,
    config: TrainConfig,
    start: Callable[[], Decoder],
    objective: Callable[[], Objective],
    made_from: dict[str, str],
    *,
    title: str = "",
    batches: Batches | None = None,
    watch: Callable[[StepMetrics], None] = lambda metrics: None,
    validate: Callable[[Decoder], Mapping[str, float]] | None = None,
    unit: str = "tokens",
) -> Path:
    """Train `start()` towards `objective()` and keep the checkpoint under `name`; the metrics stay in `NAME-training`.

    Interrupted, the next call goes on from the last training checkpoint; finished, it does nothing.
    Starting points and objectives are callables, so that nothing is loaded for a step that is finished. Without `batches` the
    training rows are shuffled. `watch` gets every step. `validate` measures on the way (None: cross-entropy on the first validation
    rows), and `unit` is what the objective counts.
    """
    folder = run.path(f"{name}-training")
    loader = batches or Loader(text.training, config.batch_rows, config.seed)
    deciding = config.deciding() | {"best": config.keep_best}
    origin = made_from | {"text": text.fingerprint, "batches": loader.fingerprint, "training": fingerprint_bytes(repr(deciding))}

    def make(path: Path) -> None:
        run.progress.note(f"  {title or name}: {config.steps} steps of {config.batch_rows} x {loader.phase(0).row_length} tokens")
        decoder = run.team.model(start, config).to(run.device)
        line = ProgressLine(config.steps, unit)

        def report(metrics: StepMetrics) -> None:
            if line.first and metrics.step > 1:
                run.progress.note(f"  {title or name}: goes on after step {metrics.step - 1}")
            if metrics.event:
                run.progress.note(f"  {event(metrics)}")
            run.progress.update(line.text(metrics))
            watch(metrics)

        history = train(
            decoder,
            run.team.objective(objective()),
            loader,
            config,
            folder,
            made_from=origin,
            validate=validate or (lambda model: validation_loss(model, text, config.batch_rows, VALIDATED_ROWS)),
            report=report,
            matmul_rate=matmul_rate(config.dtype, run.device),
            **run.team.options(config),
        )
        step = (history.best if config.keep_best else None) or config.steps
        if config.keep_best:
            run.progress.note(f"  {title or name}: weights of step {step}, where the validation loss was lowest")
        _record_drawn(run, f"{name}-training/drawn.json", loader, config.steps)
        run.team.save(decoder, step, folder / "checkpoints", path, text.tokenizer)

    checkpoint = run.keep_together(name, origin, make, lambda path: path, title=title or name)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)  # only now: a kill before this line costs nothing
    return checkpoint


def event(metrics: StepMetrics) -> str:
    """`step 41: spike, skipped; loss 7.1, on documents a.txt, b.txt`"""
    what = f"step {metrics.step}: {metrics.event}, {'skipped' if metrics.skipped else 'learned from all the same'}"
    return f"{what}; loss {metrics.loss:.3f}, on documents {named(metrics.documents)}"


def validation_loss(decoder: Decoder, text: Text, batch_rows: int, rows: int) -> dict[str, float]:
    """Cross-entropy on the first validation rows."""
    return {"loss": evaluate(decoder, in_order(text.validation, batch_rows, limit=rows)).loss}


def _record_drawn(run: Run, name: str, loader: Batches, steps: int) -> None:
    """Phases, and what each source had given after some of the steps: exact counts, for the report."""
    points = sorted({round(steps * point / DRAWN_POINTS) for point in range(DRAWN_POINTS + 1)})
    drawn = [{"step": step, "tokens": {each.source: each.tokens for each in loader.drawn(step)}} for step in points]
    total = [vars(each) for each in loader.drawn(steps)]
    run.write(name, {"phases": list(_phases(loader, steps)), "drawn": drawn, "total": total})


def _phases(loader: Batches, steps: int) -> Iterator[dict[str, Any]]:
    step: int | None = 0
    while step is not None and step < steps:
        phase = loader.phase(step)
        yield {**vars(phase), "weights": dict(phase.weights)}
        step = phase.end
