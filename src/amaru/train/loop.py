"""The training loop: step, validate, report, save; and again, from where it was stopped."""

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch

from amaru.config import fingerprint_bytes
from amaru.data.loader import Batches
from amaru.errors import ConfigError
from amaru.models.decoder import Decoder
from amaru.ops.heap import keep_freed_memory
from amaru.train.balance import Balance
from amaru.train.checkpoint import Checkpoints, Store
from amaru.train.interrupt import Interrupt
from amaru.train.metrics import History, MetricsLog, Past, StepMetrics
from amaru.train.objective import Objective
from amaru.train.optim import adamw
from amaru.train.placement import ALONE, Placement
from amaru.train.settings import TrainConfig
from amaru.train.step import Stepper

COMPUTE_DTYPES = {"fp32": None, "bf16": torch.bfloat16}  # None: the dtype of the weights, so fp64 models stay fp64

Validate = Callable[[Decoder], Mapping[str, float]]


def train(
    model: Decoder,
    objective: Objective,
    loader: Batches,
    recipe: TrainConfig,
    out: str | Path,
    *,
    made_from: Mapping[str, str] | None = None,
    validate: Validate | None = None,
    report: Callable[[StepMetrics], None] | None = None,
    matmul_rate: float | None = None,
    store: Callable[[Path, dict[str, str]], Store] | None = None,
    placement: Placement = ALONE,
) -> History:
    """Train `model` in place for `recipe.steps` steps, keeping checkpoints and metrics.jsonl under `out`.

    >>> history = train(model, CrossEntropy(), Loader(rows, recipe.batch_rows, recipe.seed), recipe, "runs/parent")
    >>> history.steps[-1].loss

    The same call with the same fresh model continues an interrupted run, and ends in the same weights and metrics bit
    for bit (on a CPU with the same number of threads). SIGINT and SIGTERM finish the step, save, and raise
    KeyboardInterrupt. `made_from` names hashes of what else decides the result, such as a teacher. `validate(model)`
    runs without gradients and returns numbers by name. `report` gets every step (`ProgressLine` makes a line of it).
    `matmul_rate`, FLOP/s of this machine, is what MFU is a share of. `store(directory, made_from)` keeps the state, if
    not `Checkpoints`, and `placement` says which part of every batch is this process's, if there are several. With
    `keep_best` the model ends with the weights of the lowest validated loss instead of the last.

    Raises `TrainingError` where the recipe's guard stops, `ArtifactError` when `out` holds another run,
    `StorageError` on a full disk (what was saved before stays whole), `ConfigError` for settings that contradict.
    """
    _require_agreement(loader, recipe, validate is not None)
    keep_freed_memory()
    out = Path(out)
    model.compute_dtype, model.recompute_every = COMPUTE_DTYPES[recipe.dtype], recipe.recompute_every
    optimizer = adamw(model, lr=recipe.lr, betas=recipe.betas, weight_decay=recipe.weight_decay, eps=recipe.eps)
    kept = (store or _checkpoints(recipe))(out / "checkpoints", _origin(model, loader, recipe, placement) | dict(made_from or {}))
    past, saved_at = Past(recipe.guard.window), time.monotonic()
    torch.manual_seed(recipe.seed)
    with contextlib.ExitStack() as stack:
        stack.callback(kept.close)
        finished = kept.restore(model, optimizer)
        log = stack.enter_context(MetricsLog(out / "metrics.jsonl", finished, past, writes=placement.leads))
        interrupt = stack.enter_context(Interrupt())
        balance = stack.enter_context(Balance(model, recipe.expert_balance, placement))
        stepper = Stepper(model, objective, loader, recipe, optimizer, balance, matmul_rate, placement)
        for step in range(finished, recipe.steps):
            metrics = stepper.step(step, past)
            last = step + 1 == recipe.steps
            if validate and (last or (recipe.validate_every and (step + 1) % recipe.validate_every == 0)):
                metrics = replace(metrics, validation=_validated(model, validate))
            log.write(metrics)
            if report:
                report(metrics)
            best = past.best if recipe.keep_best else None
            due = time.monotonic() - saved_at >= recipe.checkpoint_seconds
            stop, due = placement.agreed([interrupt.asked, due])
            if last or best == step + 1 or stop or due:
                log.sync()
                kept.save(step + 1, model, optimizer, best)
                saved_at = time.monotonic()
            if stop:
                raise KeyboardInterrupt(f"Stopped after step {step + 1} of {recipe.steps}; the same command continues from there.")
    if recipe.keep_best and past.best not in (None, recipe.steps):
        kept.restore_weights(past.best, model)
    return History(out / "metrics.jsonl", finished, past.best)


def _checkpoints(recipe: TrainConfig) -> Callable[[Path, dict[str, str]], Store]:
    return lambda directory, made_from: Checkpoints(
        directory, made_from, keep=recipe.checkpoint_keep, in_background=recipe.checkpoint_in_background
    )


@torch.no_grad()
def _validated(model: Decoder, validate: Validate) -> dict[str, float]:
    return dict(validate(model))


def _origin(model: Decoder, loader: Batches, recipe: TrainConfig, placement: Placement) -> dict[str, str]:
    """Hashes of what decides the result."""
    return {
        "recipe": fingerprint_bytes(repr(recipe.deciding())),
        "training text": loader.fingerprint,
        "starting model": placement.fingerprint(model),
    }


def _require_agreement(loader: Batches, recipe: TrainConfig, validates: bool) -> None:
    rows = loader.phase(0).batch_rows
    if (rows, loader.seed) != (recipe.batch_rows, recipe.seed):
        raise ConfigError(
            f"The loader has batch_rows {rows} and seed {loader.seed}, the recipe {recipe.batch_rows} and {recipe.seed}; "
            "make it with Loader(rows, recipe.batch_rows, recipe.seed)."
        )
    if loader.steps is not None and loader.steps < recipe.steps:
        raise ConfigError(f"The loader has batches for {loader.steps} steps, and the recipe takes {recipe.steps}.")
    if (recipe.validate_every or recipe.keep_best) and not validates:
        wish = f"validate_every is {recipe.validate_every}" if recipe.validate_every else "keep_best is set"
        raise ConfigError(f"{wish}, but there is nothing to validate with; leave it out or give validation text.")
