"""Checkpoints beside one another: prefill and decode of each, taken in turn in one run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

import torch

from amaru.config import Config
from amaru.models.checkpoint import load
from amaru.models.decoder import Decoder
from amaru.models.quantised import quantised
from amaru.recipes.bench.infer import Bench, Progress, work_of
from amaru.serve.speed import seconds

TURNS = 7  # in each of which every checkpoint runs once


class Column(Config):
    """A checkpoint: tokens per second by row, how many times the first one's, and bytes of weights by what they are."""

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
    """`run(["model", "model-int8"], Bench(prefill=(1024,), decode=(1,)))`: the fastest turn of each row, the middle of the turns' ratios.

    In a turn every checkpoint runs once, so that a machine that slows down for a minute slows all of them.
    """
    decoders = [load(path) for path in checkpoints]
    turns = {row: _turns(decoders, row, bench, progress) for row in bench.rows}
    columns = (_column(path, decoder, index, turns) for index, (path, decoder) in enumerate(zip(checkpoints, decoders, strict=True)))
    return Beside(columns=tuple(columns), threads=torch.get_num_threads(), settings=bench)


def _turns(decoders: Sequence[Decoder], row: str, bench: Bench, progress: Progress) -> list[list[float]]:
    """Tokens per second [turn][checkpoint], after a turn that is not counted."""
    works = [work_of(decoder, row, bench) for decoder in decoders]
    for _, work in works:
        work()
    found = []
    for turn in range(TURNS):
        progress(f"{row}, turn {turn + 1} of {TURNS}")
        found.append([tokens / seconds(work, decoder) for decoder, (tokens, work) in zip(decoders, works, strict=True)])
    return found


def _column(path: str | Path, decoder: Decoder, index: int, turns: Mapping[str, list[list[float]]]) -> Column:
    codes = sum(each.codes.nbytes + each.scales.nbytes for each in quantised(decoder).values())
    return Column(
        checkpoint=str(path),
        rates={row: max(turn[index] for turn in found) for row, found in turns.items()},
        ratios={row: median(turn[index] / turn[0] for turn in found) for row, found in turns.items()},
        codes=codes,
        numbers=sum(parameter.nbytes for parameter in decoder.parameters()),
    )
