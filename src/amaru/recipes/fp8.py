"""FP8 in a training run: the starting model is prepared, what runs how is told, and the tensors are looked at now and then."""

from collections.abc import Callable
from typing import NamedTuple

from amaru.models.decoder import Decoder
from amaru.precision.fp8 import Fp8Recipe, describe, prepare
from amaru.precision.fp8_statistics import Fp8Statistics
from amaru.recipes.run import Run
from amaru.train.metrics import StepMetrics

LOOKS = 40  # at the tensors of a whole run
Watch = Callable[[StepMetrics], None]


class Training(NamedTuple):
    """The two arguments of `fit` that a precision decides."""

    start: Callable[[], Decoder]
    watch: Watch


def training_in(
    fp8: Fp8Recipe | None,
    start: Callable[[], Decoder],
    run: Run,
    name: str,
    steps: int,
    watch: Watch = lambda metrics: None,
    look_every: int | None = None,
) -> Training:
    """`start` and `watch` for `fit(run, name, ...)` of so many steps, as they were where `fp8` is None.

    >>> start, watch = training_in(recipe.fp8, start, run, "model", training.steps)

    Every `look_every` steps (None: some forty times) scales and underflow are written to `NAME-training/fp8.jsonl`.
    """
    if fp8 is None:
        return Training(start, watch)
    statistics = Fp8Statistics(run.path(f"{name}-training") / "fp8.jsonl", look_every or max(1, steps // LOOKS))

    def prepared() -> Decoder:
        decoder = start().to(run.device)
        rows = prepare(decoder, fp8)
        statistics.attach(decoder, rows)
        run.progress.note("\n".join(f"  {line}" for line in describe(rows).splitlines()))
        return decoder

    def watched(metrics: StepMetrics) -> None:
        statistics.after(metrics.step)
        watch(metrics)

    return Training(prepared, watched)
