"""Training: tokens per second of whole steps, ours, the limit's and the peers', taken side by side in one run."""

import statistics
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from pydantic import Field

from amaru.config import Config
from amaru.data.loader import Loader
from amaru.data.packing import PackedRows
from amaru.errors import ConfigError
from amaru.models import cost
from amaru.models.checkpoint import load
from amaru.models.decoder import Decoder
from amaru.ops.heap import give_back_freed_memory, keep_freed_memory
from amaru.recipes.bench.ask import ask
from amaru.recipes.bench.limits import product_rate
from amaru.train.balance import Balance
from amaru.train.metrics import Past
from amaru.train.objective import CrossEntropy
from amaru.train.optim import adamw
from amaru.train.settings import TrainConfig
from amaru.train.step import Stepper

PEERS = {"transformers": "transformers_train_side.py"}
Progress = Callable[[str], None]


class TrainBench(Config):
    """`TrainBench(lengths=(512, 2048))`: which rows are measured.

    lengths          of the sequences
    tokens           of a step: as many whole sequences as fit, one at least
    steps            of which the fastest counts, after one that does not
    recompute_every  as in training: of so many layers one is run again in the backward pass
    """

    lengths: tuple[int, ...] = (512, 2048)
    tokens: int = Field(default=1024, gt=0)
    steps: int = Field(default=2, gt=0)
    recompute_every: int | None = Field(default=None, gt=0)

    def sequences(self, length: int) -> int:
        return max(1, self.tokens // length)


class TrainRow(Config):
    """Tokens per second; `limit` is what three times the forward FLOPs allow at the measured matmul rate, so `mfu` is ours as a
    share of it; `peers` by name with the setting that was best."""

    name: str
    ours: float
    spread: float
    limit: float
    mfu: float
    peers: dict[str, float]
    chosen: dict[str, str]


class TrainResult(Config):
    checkpoint: str
    rows: tuple[TrainRow, ...]
    flops: float
    threads: int
    versions: dict[str, str]
    settings: TrainBench


def run(
    checkpoint: str | Path, peers: dict[str, str], bench: TrainBench, progress: Progress = print, rate: float | None = None
) -> TrainResult:
    """`run("ckpt", {"transformers": "/envs/hf/bin/python"}, TrainBench())`: bf16 arithmetic over fp32 weights, gradients clipped, AdamW.

    Our rows, and the matmul rate beside them, are taken before and after every peer; the model is let go while a peer runs. `rate` has
    that rate in FLOP/s when it was measured already.
    Raises `ConfigError` for a peer that is not known, `BackendError` with its last words for one that fails.
    """
    if unknown := sorted(peers.keys() - PEERS.keys()):
        raise ConfigError(f"There is no peer '{unknown[0]}' for training; there is: {', '.join(PEERS)}.")
    keep_freed_memory()
    rates, taken, answers = [rate or product_rate(torch.bfloat16)], [_ours(checkpoint, bench, progress)], {}
    for name, python in peers.items():
        progress(name)
        give_back_freed_memory()  # the peer may need all there is
        asked = {"lengths": bench.lengths, "tokens": bench.tokens, "steps": bench.steps}
        answers[name] = ask(name, python, PEERS[name], str(checkpoint), asked)
        rates.append(rate or product_rate(torch.bfloat16))
        taken.append(_ours(checkpoint, bench, progress))
    best, versions = max(rates), {name: answer["version"] for name, answer in answers.items()}
    return TrainResult(
        checkpoint=str(checkpoint),
        rows=tuple(_row(length, taken, best, answers) for length in bench.lengths),
        flops=best,
        threads=torch.get_num_threads(),
        versions={"amaru": version("amaru"), "torch": torch.__version__, **versions},
        settings=bench,
    )


def _ours(checkpoint: str | Path, bench: TrainBench, progress: Progress) -> dict[int, tuple[float, int]]:
    """By length: tokens per second, and FLOPs of a token."""
    decoder = load(checkpoint, dtype=torch.float32)
    decoder.requires_grad_(True)
    decoder.compute_dtype, decoder.recompute_every = torch.bfloat16, bench.recompute_every
    found = {}
    for length in bench.lengths:
        progress(f"amaru: {bench.sequences(length)} x {length} tokens")
        seconds = _seconds(decoder, length, bench)
        found[length] = bench.sequences(length) * length / seconds, cost.training_flops(decoder.config, (length + 1) // 2)
    return found


def _seconds(decoder: Decoder, length: int, bench: TrainBench) -> float:
    """Of the fastest step."""
    recipe = TrainConfig(steps=bench.steps + 1, batch_rows=bench.sequences(length), lr=1e-5, dtype="bf16")
    stepper = prepared(decoder, length, recipe)
    return min([stepper.step(step, Past(recipe.guard.window)).seconds for step in range(recipe.steps)][1:])


def prepared(decoder: Decoder, length: int, recipe: TrainConfig) -> Stepper:
    """The loop's step with its optimizer, over random tokens."""
    tokens = np.random.default_rng(0).integers(3, decoder.config.vocab, length * recipe.batch_rows * recipe.steps + 1).astype(np.uint32)
    rows = PackedRows(tokens, np.zeros(1, dtype=np.int64), ("random",), length, {})
    optimizer = adamw(decoder, lr=recipe.lr, betas=recipe.betas, weight_decay=recipe.weight_decay)
    return Stepper(decoder, CrossEntropy(), Loader(rows, recipe.batch_rows, 0), recipe, optimizer, Balance(decoder, 0.0))


def _row(length: int, taken: list[dict[int, tuple[float, int]]], rate: float, answers: dict[str, dict]) -> TrainRow:
    name, found = f"train {length}", [each[length][0] for each in taken]
    limit = rate / taken[0][length][1]
    return TrainRow(
        name=name,
        ours=max(found),
        spread=(max(found) - min(found)) / statistics.median(found),
        limit=limit,
        mfu=max(found) / limit,
        peers={peer: answer["rows"][name] for peer, answer in answers.items()},
        chosen={peer: answer["chosen"][name] for peer, answer in answers.items()},
    )
