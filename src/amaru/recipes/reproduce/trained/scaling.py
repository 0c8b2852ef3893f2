"""Inference-time scaling: what more samples of an answer buy, against the time they take, on the trained twins."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from statistics import mean
from typing import Any

import torch
from pydantic import Field

from amaru.config import Config, from_dict
from amaru.config.records import read_record
from amaru.data.tokenizer import Tokenizer
from amaru.errors import ArtifactError, ConfigError
from amaru.models.checkpoint import fingerprint
from amaru.models.decoder import Decoder
from amaru.recipes.compare import for_arithmetic
from amaru.recipes.reproduce.intervals import interval
from amaru.recipes.reproduce.judging import UNDECIDED, UNFINISHED, Found, above, finding, judgement, positive, told
from amaru.recipes.reproduce.trained.mixture import added
from amaru.recipes.reproduce.trained.trials import Cell, best, checkpoint_of
from amaru.recipes.reproduce.trained.twins import HYBRID, TRANSFORMER, Twins
from amaru.recipes.run import Run
from amaru.serve.generate import generate
from amaru.serve.request import Settings
from amaru.serve.sampler import Sampling

SHAPES = (HYBRID, TRANSFORMER)
LONGEST = 8  # tokens of an answer
MEASURES = {"best": "best of n", "majority": "majority of n"}


class Scaling(Config):
    """`Scaling()`: sums, answered by the checkpoints that `amaru reproduce twins` left in `twins`.

    questions    sums that are asked, each behind `shown` solved ones
    samples      answers to each, of which the first 1, 2, 4, ... are looked at; a power of two
    together     sequences that are generated at a time
    temperature  of the samples
    """

    twins: str = "runs/reproduce-twins"
    questions: int = Field(default=64, gt=0)
    shown: int = Field(default=20, ge=0)
    samples: int = Field(default=32, gt=1)
    together: int = Field(default=64, gt=0)
    temperature: float = Field(default=0.8, gt=0)
    seed: int = 0

    def check(self) -> None:
        if self.samples & (self.samples - 1):
            raise ConfigError(f"Scaling.samples is a power of two; got {self.samples}.")

    @property
    def counts(self) -> list[int]:
        return [2**power for power in range(self.samples.bit_length())]


def make(recipe: Scaling, run: Run) -> None:
    """A cell for each shape and seed of the twins."""
    directory = Path(recipe.twins)
    if not (directory / "run.json").exists():
        raise ArtifactError(f"{directory} holds no twins; run `amaru reproduce twins --out {directory}` first, or set twins.")
    twins = from_dict(Twins, read_record(directory / "run.json")["recipe"])
    for shape in SHAPES:
        for seed in twins.seeds:
            checkpoint = _checkpoint(directory, twins, shape, seed)
            origin = {"checkpoint": fingerprint(checkpoint)}
            decoder = lambda at=checkpoint: for_arithmetic(at, twins.learning.dtype)  # noqa: E731  (read only when needed)
            cell = lambda at=checkpoint, decoder=decoder: _sampled(recipe, decoder(), Tokenizer.load(at), run)  # noqa: E731
            run.result(f"cell-{shape}-seed{seed}", origin, cell, title=f"{shape}, seed {seed}")


def _checkpoint(directory: Path, twins: Twins, shape: str, seed: int) -> Path:
    cell = best(directory, twins, shape) if seed == twins.seeds[0] else Cell(shape, seed)
    checkpoint = checkpoint_of(directory, cell)
    if not checkpoint.exists():
        raise ArtifactError(f"{checkpoint} is not there yet; let `amaru reproduce twins --out {directory}` come to its end.")
    return checkpoint


def _sampled(recipe: Scaling, decoder: Decoder, tokenizer: Tokenizer, run: Run) -> dict[str, Any]:
    """All samples of all questions, in batches of one size, so that time is in proportion to the samples."""
    asked = [question(recipe, number) for number in range(recipe.questions)]
    wanted = [(number, sample) for number in range(recipe.questions) for sample in range(recipe.samples)]
    said: dict[int, list[str]] = {number: [] for number in range(recipe.questions)}
    _answers(recipe, decoder, tokenizer, asked, wanted[: recipe.together])  # warms up
    start = time.perf_counter()
    for first in range(0, len(wanted), recipe.together):
        some = wanted[first : first + recipe.together]
        for (number, _), text in zip(some, _answers(recipe, decoder, tokenizer, asked, some), strict=True):
            said[number].append(text)
        run.progress.update(f"{first + len(some)} of {len(wanted)} samples")
    seconds = time.perf_counter() - start
    right = {number: right for number, (_, right) in enumerate(asked)}
    return {"counts": recipe.counts, **scores(said, right, recipe.counts), "seconds": seconds, "threads": torch.get_num_threads()}


def question(recipe: Scaling, number: int) -> tuple[str, str]:
    """Solved sums and an open one, and its answer."""
    draw = Random(f"{recipe.seed} {number}")
    lines = [added(draw) for _ in range(recipe.shown + 1)]
    open_line, right = lines[-1].rsplit(" ", 1)
    return "\n".join([*lines[:-1], open_line]), right


def _answers(
    recipe: Scaling, decoder: Decoder, tokenizer: Tokenizer, asked: Sequence[tuple[str, str]], wanted: Sequence[tuple[int, int]]
) -> list[str]:
    settings = [
        Settings(
            max_tokens=LONGEST,
            stop=(tokenizer.eos_id,),
            stop_strings=("\n",),
            sampling=Sampling(temperature=recipe.temperature, seed=number * recipe.samples + sample),
        )
        for number, sample in wanted
    ]
    prompts = [tokenizer.encode(asked[number][0]) for number, _ in wanted]
    return [found.text.strip() for found in generate(decoder, prompts, settings, tokenizer=tokenizer)]


def scores(said: Mapping[int, Sequence[str]], right: Mapping[int, str], counts: Sequence[int]) -> dict[str, list[float]]:
    """Of the first 1, 2, 4, ... samples: how often one is right, and how often the most frequent is (of equals the first)."""
    found: dict[str, list[float]] = {name: [] for name in MEASURES}
    for count in counts:
        firsts = {number: texts[:count] for number, texts in said.items()}
        found["best"].append(mean(right[number] in texts for number, texts in firsts.items()))
        found["majority"].append(mean(Counter(texts).most_common(1)[0][0] == right[number] for number, texts in firsts.items()))
    return found


def judge(directory: Path) -> Found:
    recipe = from_dict(Scaling, read_record(directory / "run.json")["recipe"])
    there = {shape: _read(directory, shape) for shape in SHAPES}
    missing = [f"cells of the {shape}" for shape, found in there.items() if len(found) < 2]
    setting = f"The trained twins on this CPU: {recipe.questions} sums, {recipe.samples} samples each, {recipe.together} at a time"
    findings = [*(_gain(there[HYBRID], name) for name in MEASURES), *(_cheaper(there, name) for name in MEASURES)]
    curves = [_curve(there, name) for name in MEASURES]
    return judgement([each | {"setting": setting} for each in findings], missing, curves=curves)


def _read(directory: Path, shape: str) -> dict[int, dict[str, Any]]:
    found = {path.stem: read_record(path) for path in sorted(directory.glob(f"cell-{shape}-seed*.json"))}
    return {int(name.rsplit("seed", 1)[1]): record for name, record in found.items()}


def _gain(found: Mapping[int, Mapping[str, Any]], name: str) -> Found:
    claim = f"More samples buy accuracy: {MEASURES[name]}"
    gains = [record[name][-1] - record[name][0] for record in found.values()]
    bounds = interval(gains)
    if bounds is None:
        return finding(claim, UNFINISHED, f"{claim}: fewer than two seeds are there.")
    ends = [mean(record[name][end] for record in found.values()) for end in (0, -1)]
    counts = next(iter(found.values()))["counts"]
    points = told([100 * each for each in bounds], "+.1f")
    sentence = f"{MEASURES[name].capitalize()}: {ends[0]:.1%} with one sample, {ends[1]:.1%} with {counts[-1]} ({points} points)."
    return finding(claim, positive(bounds), sentence, figure=mean(gains), interval=bounds)


def _cheaper(there: Mapping[str, Mapping[int, Mapping[str, Any]]], name: str) -> Found:
    """Seconds until the hybrid is as accurate as the Transformer ever is, beside the Transformer's own."""
    claim = f"The hybrid buys the same accuracy in less time: {MEASURES[name]}"
    both = [(record, there[TRANSFORMER][seed]) for seed, record in there[HYBRID].items() if seed in there[TRANSFORMER]]
    ratios = [times_as_fast(ours, theirs, name) for ours, theirs in both]
    bounds = interval(ratios)
    if bounds is None:
        return finding(claim, UNFINISHED, f"{claim}: fewer than two seeds are there.")
    if not all(max(theirs[name]) for _, theirs in both):
        return finding(claim, UNDECIDED, f"{claim}: a Transformer was never right, so there is nothing to reach.", interval=bounds)
    paces = [mean(record["seconds"] for record in there[shape].values()) for shape in SHAPES]
    sentence = (
        f"{MEASURES[name].capitalize()}: {mean(ratios):.2f} times as fast to what the Transformer reaches ({told(bounds)}; 0 where it is "
        f"never reached); all samples take {paces[0]:.1f} s and {paces[1]:.1f} s."
    )
    return finding(claim, above(bounds, 1.0), sentence, figure=mean(ratios), interval=bounds)


def times_as_fast(ours: Mapping[str, Any], theirs: Mapping[str, Any], name: str) -> float:
    """At the fewest samples with which each has what `theirs` reaches at most; 0 where `ours` never has."""
    wanted = max(theirs[name])
    seconds = [_until(record, name, wanted) for record in (ours, theirs)]
    return 0.0 if seconds[0] is None or seconds[1] is None else seconds[1] / seconds[0]


def _until(record: Mapping[str, Any], name: str, wanted: float) -> float | None:
    """Time is in proportion to samples, since batches are of one size."""
    counts = record["counts"]
    enough = next((count for count, value in zip(counts, record[name], strict=True) if value >= wanted), None)
    return None if enough is None else record["seconds"] * enough / counts[-1]


def _curve(there: Mapping[str, Mapping[int, Mapping[str, Any]]], name: str) -> Found:
    lines = {}
    for shape, found in there.items():
        for seed, record in found.items():
            spent = [record["seconds"] * count / record["counts"][-1] for count in record["counts"]]
            lines[f"{shape}, seed {seed}"] = [list(point) for point in zip(spent, record[name], strict=True)]
    return {"title": f"Accuracy against time: {MEASURES[name]}", "x": "seconds for all questions", "y": "share right", "lines": lines}
