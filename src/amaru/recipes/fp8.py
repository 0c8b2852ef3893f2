"""FP8 in a training run: the starting model is prepared, what runs how is told, and the tensors are looked at now and then."""

from collections.abc import Callable
from typing import NamedTuple

from amaru.models.decoder import Decoder
from amaru.precision.fp8 import Fp8Recipe, describe, prepare
from amaru.precision.fp8_statistics import Fp8Statistics
from amaru.recipes.run import Run
from amaru.train.metrics import StepMetrics

LOOKS = 40  # at the tensors of a whole run, unless it says otherwise


class Training(NamedTuple):
    """The two arguments of `fit` that a precision decides."""

    start: Callable[[], Decoder]
    watch: Callable[[StepMetrics], None]


def training_in(fp8: Fp8Recipe | None, start: Callable[[], Decoder], run: Run, name: str, look_every: int) -> Training:
    """`fit(run, name, ..., start=..., watch=...)` with these trains in FP8, or as it was where `fp8` is None.

    >>> start, watch = training_in(recipe.fp8, start, run, "model", look_every=50)

    Every `look_every` steps scales and underflow are written to `NAME-training/fp8.jsonl`.
    """
    if fp8 is None:
        return Training(start, lambda metrics: None)
    statistics = Fp8Statistics(run.path(f"{name}-training") / "fp8.jsonl", look_every)

    def prepared() -> Decoder:
        decoder = start()
        rows = prepare(decoder, fp8)
        statistics.attach(decoder, rows)
        run.progress.note(f"  {describe(rows)}")
        return decoder

    return Training(prepared, lambda metrics: statistics.after(metrics.step))
