"""One trained checkpoint: the step that train, distill, compress and the demo share."""

import shutil
from collections.abc import Callable
from pathlib import Path

from amaru.config import fingerprint_bytes
from amaru.data.loader import Loader, in_order
from amaru.eval.perplexity import evaluate
from amaru.models.checkpoint import save
from amaru.models.decoder import Decoder
from amaru.recipes.run import Run
from amaru.recipes.text import Text
from amaru.train.loop import TrainConfig, train
from amaru.train.metrics import ProgressLine, StepMetrics
from amaru.train.objective import Objective

VALIDATED_ROWS = 32  # while training; the final figures use all of them


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
    watch: Callable[[StepMetrics], None] = lambda metrics: None,
) -> Path:
    """Train `start()` towards `objective()` and keep the checkpoint under `name`; the metrics stay in `NAME-training`.

    Interrupted, the next call goes on from the last training checkpoint; finished, it does nothing.
    Starting points and objectives are callables, so that nothing is loaded for a step that is finished. `watch` gets every step.
    """
    folder = run.path(f"{name}-training")
    origin = made_from | {"text": text.fingerprint, "training": fingerprint_bytes(repr(config))}

    def make(path: Path) -> None:
        run.progress.note(f"  {title or name}: {config.steps} steps of {config.batch_rows} x {text.training.row_length} tokens")
        decoder = start()
        loader = Loader(text.training, config.batch_rows, config.seed)
        line = ProgressLine(config.steps)

        def report(metrics: StepMetrics) -> None:
            run.progress.update(line.text(metrics))
            watch(metrics)

        train(
            decoder,
            objective(),
            loader,
            config,
            folder,
            made_from=origin,
            validate=lambda model: validation_loss(model, text, config.batch_rows, VALIDATED_ROWS),
            report=report,
        )
        save(decoder, path, text.tokenizer)

    checkpoint = run.keep(name, origin, make, lambda path: path, title=title or name)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)  # only now: a kill before this line costs nothing
    return checkpoint


def validation_loss(decoder: Decoder, text: Text, batch_rows: int, rows: int) -> dict[str, float]:
    """Cross-entropy on the first validation rows."""
    return {"loss": evaluate(decoder, in_order(text.validation, batch_rows, limit=rows)).loss}
