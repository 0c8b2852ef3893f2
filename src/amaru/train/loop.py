"""The training loop: fetch, forward, backward, clip, step, report; and again, from where it was stopped."""

import contextlib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import psutil
import torch
from pydantic import Field
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from amaru.config import Config, fingerprint_bytes, to_dict
from amaru.data.loader import Loader, TrainingBatch
from amaru.errors import ConfigError, TrainingError
from amaru.models.decoder import Decoder
from amaru.train.checkpoint import Checkpoints, fingerprint_weights
from amaru.train.interrupt import Interrupt
from amaru.train.metrics import History, MetricsLog, StepMetrics
from amaru.train.objective import Objective
from amaru.train.optim import adamw
from amaru.train.schedule import SCHEDULES

COMPUTE_DTYPES = {"fp32": None, "bf16": torch.bfloat16}  # None: the dtype of the weights, so fp64 models stay fp64
NAMED_DOCUMENTS = 5  # of a batch, in an error


class TrainConfig(Config):
    """How to train; the defaults are Nemotron-H's where the paper gives them.

        TrainConfig(steps=900, batch_rows=16, lr=8e-4, warmup=50)

    `dtype` is that of the arithmetic, weights stay fp32. `validate_every` counts steps (None: after the last one only).
    """

    steps: int = Field(gt=0)
    batch_rows: int = Field(gt=0)
    lr: float = Field(gt=0)
    warmup: int = Field(default=0, ge=0)
    schedule: Literal["cosine", "wsd"] = "cosine"
    final_lr_share: float = Field(default=0.01, ge=0, le=1)
    weight_decay: float = Field(default=0.1, ge=0)
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = Field(default=1.0, gt=0)
    seed: int = Field(default=0, ge=0)
    dtype: Literal["bf16", "fp32"] = "fp32"
    validate_every: int | None = Field(default=None, gt=0)
    checkpoint_seconds: float = Field(default=60.0, ge=0)

    def check(self) -> None:
        if self.warmup >= self.steps:
            raise ConfigError(f"TrainConfig.warmup must be less than steps; got {self.warmup} and {self.steps}.")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"TrainConfig.betas must lie in 0 <= beta < 1; got {self.betas}.")

    def lr_at(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        share = SCHEDULES[self.schedule](step, steps=self.steps, warmup=self.warmup, final_share=self.final_lr_share)
        return self.lr * share


def train(
    model: Decoder,
    objective: Objective,
    loader: Loader,
    recipe: TrainConfig,
    out: str | Path,
    *,
    made_from: Mapping[str, str] | None = None,
    validate: Callable[[Decoder], Mapping[str, float]] | None = None,
    report: Callable[[StepMetrics], None] | None = None,
) -> History:
    """Train `model` in place for `recipe.steps` steps, keeping checkpoints and metrics.jsonl under `out`.

    >>> history = train(model, CrossEntropy(), Loader(rows, recipe.batch_rows, recipe.seed), recipe, "runs/parent")
    >>> history.steps[-1].loss

    The same call with the same fresh model continues an interrupted run, and ends in the same weights and metrics bit
    for bit (on a CPU with the same number of threads). SIGINT and SIGTERM finish the step, save, and raise
    KeyboardInterrupt. `made_from` names hashes of what else decides the result, such as a teacher. `validate(model)`
    runs without gradients and returns numbers by name. `report` gets every step (`ProgressLine` makes a line of it).

    Raises `TrainingError` for a loss or gradient that is not finite, `ArtifactError` when `out` holds another run,
    `StorageError` on a full disk (what was saved before stays whole), `ConfigError` for settings that contradict.
    """
    _require_agreement(loader, recipe, validate is not None)
    out = Path(out)
    model.compute_dtype = COMPUTE_DTYPES[recipe.dtype]
    optimizer = adamw(model, lr=recipe.lr, betas=recipe.betas, weight_decay=recipe.weight_decay)
    checkpoints = Checkpoints(out / "checkpoints", _origin(model, loader, recipe) | dict(made_from or {}))
    torch.manual_seed(recipe.seed)
    finished = checkpoints.restore(model, optimizer)
    saved_at = time.monotonic()
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(MetricsLog(out / "metrics.jsonl", finished))
        interrupt = stack.enter_context(Interrupt())
        for step in range(finished, recipe.steps):
            metrics = _train_step(model, objective, loader, recipe, optimizer, step)
            last = step + 1 == recipe.steps
            if validate and (last or (recipe.validate_every and (step + 1) % recipe.validate_every == 0)):
                metrics = replace(metrics, validation=_validated(model, validate))
            log.write(metrics)
            if report:
                report(metrics)
            if last or interrupt.asked or time.monotonic() - saved_at >= recipe.checkpoint_seconds:
                log.sync()
                checkpoints.save(step + 1, model, optimizer)
                saved_at = time.monotonic()
            if interrupt.asked:
                raise KeyboardInterrupt(f"Stopped after step {step + 1} of {recipe.steps}; the same command continues from there.")
    return History(tuple(log.steps), resumed_from=finished)


def _train_step(model: Decoder, objective: Objective, loader: Loader, recipe: TrainConfig, optimizer: Optimizer, step: int) -> StepMetrics:
    start = time.perf_counter()
    batch = loader.batch(step).to(model.embedding.weight.device)
    loss = objective(model, batch)
    _require_finite("loss", loss.total.item(), step, batch)
    loss.total.backward()
    norm = clip_grad_norm_(model.parameters(), recipe.clip).item()
    _require_finite("gradient norm", norm, step, batch)
    for group in optimizer.param_groups:
        group["lr"] = recipe.lr_at(step)
    optimizer.step()
    optimizer.zero_grad()
    seconds = time.perf_counter() - start
    return StepMetrics(
        step=step + 1,
        epoch=batch.epoch,
        loss=loss.total.item(),
        lr=recipe.lr_at(step),
        grad_norm=norm,
        tokens=loss.tokens,
        seconds=seconds,
        tokens_per_second=loss.tokens / seconds,
        memory=_memory(batch.ids.device),
        parts=dict(loss.parts),
    )


@torch.no_grad()
def _validated(model: Decoder, validate: Callable[[Decoder], Mapping[str, float]]) -> dict[str, float]:
    return dict(validate(model))


def _origin(model: Decoder, loader: Loader, recipe: TrainConfig) -> dict[str, str]:
    """Hashes of what decides the result; when to save is not among it."""
    deciding = {name: value for name, value in to_dict(recipe).items() if name != "checkpoint_seconds"}
    return {
        "recipe": fingerprint_bytes(repr(deciding)),
        "training text": loader.rows.fingerprint,
        "starting model": fingerprint_weights(model),
    }


def _require_agreement(loader: Loader, recipe: TrainConfig, validates: bool) -> None:
    if (loader.batch_rows, loader.seed) != (recipe.batch_rows, recipe.seed):
        raise ConfigError(
            f"The loader has batch_rows {loader.batch_rows} and seed {loader.seed}, the recipe {recipe.batch_rows} and {recipe.seed}; "
            "make it with Loader(rows, recipe.batch_rows, recipe.seed)."
        )
    if recipe.validate_every and not validates:
        raise ConfigError(
            f"validate_every is {recipe.validate_every}, but there is nothing to validate with; leave it out or give validation text."
        )


def _require_finite(what: str, value: float, step: int, batch: TrainingBatch) -> None:
    if not math.isfinite(value):
        named = ", ".join(batch.documents[:NAMED_DOCUMENTS])
        more = f" and {len(batch.documents) - NAMED_DOCUMENTS} more" * (len(batch.documents) > NAMED_DOCUMENTS)
        raise TrainingError(
            f"The {what} became {value} at step {step + 1}, on documents {named}{more}. "
            "Earlier checkpoints are whole; lower the learning rate or lengthen the warm-up."
        )


def _memory(device: torch.device) -> int:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else psutil.Process().memory_info().rss
