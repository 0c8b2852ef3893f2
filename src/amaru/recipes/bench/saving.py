"""What saving the state of a run costs: how long training stands still, in the foreground and with a thread that writes."""

import itertools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from pydantic import Field

from amaru.config import Config
from amaru.models.checkpoint import load
from amaru.ops.heap import keep_freed_memory
from amaru.recipes.bench.train import prepared
from amaru.train.checkpoint import Checkpoints
from amaru.train.metrics import Past
from amaru.train.settings import TrainConfig
from amaru.train.step import Stepper

MOST = 200  # steps, beside which a state is written
Progress = Callable[[str], None]


class SavingBench(Config):
    """`SavingBench(length=512, rows=2)`: the batch of a step, and how many steps tell what one takes alone."""

    length: int = Field(default=512, gt=1)
    rows: int = Field(default=2, gt=0)
    steps: int = Field(default=3, gt=0)


class SavingResult(Config):
    """Seconds, but for `bytes` of the state, weights and optimizer.

    step      alone
    still     training stands still while a state is saved
    copied    training stands still while a state is copied for the thread that writes it
    written   from then until it is whole on disk
    slower    what the steps beside it took longer, all together
    """

    checkpoint: str
    bytes: int
    step: float
    still: float
    copied: float
    written: float
    slower: float
    threads: int


def run(checkpoint: str | Path, bench: SavingBench, progress: Progress = print) -> SavingResult:
    """`run("ckpt", SavingBench()).copied`: in a temporary directory (`TMPDIR`), which needs room for two states."""
    keep_freed_memory()
    decoder = load(checkpoint, dtype=torch.float32)
    decoder.requires_grad_(True)
    decoder.compute_dtype = torch.bfloat16
    recipe = TrainConfig(steps=bench.steps + 1 + MOST, batch_rows=bench.rows, lr=1e-5, dtype="bf16")
    stepper, past = prepared(decoder, bench.length, recipe), Past(1)
    progress("steps alone")
    alone = median([stepper.step(step, past).seconds for step in range(bench.steps + 1)][1:])
    with tempfile.TemporaryDirectory() as directory:
        progress("saving in the foreground")
        place = Path(directory)
        still = _timed(lambda: _save(Checkpoints(place / "still", {}), stepper))
        size = sum(file.stat().st_size for file in place.rglob("*.safetensors"))
        progress("saving in the background")
        store = Checkpoints(place / "behind", {}, in_background=True)
        copied, begun, beside = _timed(lambda: _save(store, stepper)), time.perf_counter(), []
        for step in itertools.takewhile(lambda step: store.writing, range(bench.steps + 1, recipe.steps)):
            beside.append(stepper.step(step, past).seconds)
        store.close()
        written = time.perf_counter() - begun
    return SavingResult(
        checkpoint=str(checkpoint),
        bytes=size,
        step=alone,
        still=still,
        copied=copied,
        written=written,
        slower=sum(beside) - alone * len(beside),
        threads=torch.get_num_threads(),
    )


def _save(store: Checkpoints, stepper: Stepper) -> None:
    store.save(1, stepper.model, stepper.optimizer)


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
