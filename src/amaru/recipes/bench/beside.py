"""Checkpoints beside one another: prefill and decode of each, taken in turn in one run."""

from collections.abc import Sequence
from pathlib import Path

import torch

from amaru.config import Config
from amaru.models.checkpoint import load
from amaru.models.decoder import Decoder
from amaru.models.quantised import quantised
from amaru.recipes.bench.infer import Bench, Progress, rates

ROUNDS = 2  # in each of which every checkpoint has its turn


class Column(Config):
    """A checkpoint: tokens per second by row, as shares of the first one's, and bytes of weights by what they are."""

    checkpoint: str
    rates: dict[str, float]
    ratios: dict[str, float]
    codes: int
    numbers: int


class Beside(Config):
    columns: tuple[Column, ...]
    threads: int
    settings: Bench


def run(checkpoints: Sequence[str | Path], bench: Bench, progress: Progress = print) -> Beside:
    """`run(["model", "model-int8"], Bench(prefill=(1024,), decode=(1,)))`: the best of each row in all rounds."""
    decoders = [load(path) for path in checkpoints]
    found: list[dict[str, float]] = [{} for _ in decoders]
    for _ in range(ROUNDS):
        for path, decoder, best in zip(checkpoints, decoders, found, strict=True):
            taken = rates(decoder, bench, lambda text, path=path: progress(f"{path}: {text}"))
            best |= {name: max(rate, best.get(name, 0.0)) for name, rate in taken.items()}
    columns = tuple(_column(*each, found[0]) for each in zip(checkpoints, decoders, found, strict=True))
    return Beside(columns=columns, threads=torch.get_num_threads(), settings=bench)


def _column(path: str | Path, decoder: Decoder, found: dict[str, float], first: dict[str, float]) -> Column:
    codes = sum(each.codes.nbytes + each.scales.nbytes for each in quantised(decoder).values())
    return Column(
        checkpoint=str(path),
        rates=found,
        ratios={name: rate / first[name] for name, rate in found.items()},
        codes=codes,
        numbers=sum(parameter.nbytes for parameter in decoder.parameters()),
    )
