"""Constant computation and memory per generated token: one step and one sequence's bytes, from short to long contexts."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from pydantic import Field

from amaru.config import Config, from_dict
from amaru.config.records import read_record
from amaru.errors import ConfigError
from amaru.models import cost
from amaru.models.decoder import DecoderConfig
from amaru.nn.mamba2 import Mamba2
from amaru.recipes.reproduce.intervals import interval
from amaru.recipes.reproduce.judging import HOLDS, NOT, UNFINISHED, Found, above, finding, judgement, records, told, within
from amaru.recipes.reproduce.speed.shapes import drawn, reduced, shape_of
from amaru.recipes.run import Run
from amaru.serve.forward import Work, advance
from amaru.serve.speed import seconds

MODELS = ("mamba", "hybrid", "transformer")


class ConstantCost(Config):
    """`ConstantCost()`: a narrow Nemotron-H-8B, its Transformer control, and the same with Mamba-2 in place of every attention layer.

    contexts   tokens behind which a step is timed, ascending
    rounds     of all contexts in turns; in each the shortest of `steps` steps counts
    constant   how far the time of a step may be from constant, relatively
    growth     the hybrid's extra time per step from the first context to the last, at most so much of the Transformer's
    """

    hybrid: str = "nemotron-h-8b"
    transformer: str = "nemotron-t-8b"
    divisor: int = Field(default=16, gt=0)
    contexts: tuple[int, ...] = (1024, 4096, 16384, 65536, 131072)
    rounds: int = Field(default=7, gt=1)
    steps: int = Field(default=15, gt=0)
    constant: float = Field(default=0.1, gt=0)
    growth: float = Field(default=0.25, gt=0)

    def check(self) -> None:
        if len(self.contexts) < 2 or any(one >= other for one, other in pairwise(self.contexts)):
            raise ConfigError(f"contexts are at least two, ascending; got {list(self.contexts)}.")

    def config(self, model: str) -> DecoderConfig:
        """The narrow shape of one of `MODELS`."""
        if model == "transformer":
            return reduced(shape_of(self.transformer), self.divisor)
        hybrid = reduced(shape_of(self.hybrid), self.divisor)
        mamba = next(layer for layer in hybrid.layers if isinstance(layer, Mamba2))
        layers = tuple(mamba if layer.kind == "attention" else layer for layer in hybrid.layers)
        return hybrid if model == "hybrid" else replace(hybrid, layers=layers)


def make(recipe: ConstantCost, run: Run) -> None:
    """One cell a model."""
    for model in MODELS:
        run.result(f"cell-{model}", {"model": model}, lambda model=model: _measured(recipe, model, run), title=model)


def _measured(recipe: ConstantCost, model: str, run: Run) -> dict[str, Any]:
    """Contexts take turns, so that a slow moment of the machine is in all of them; one pool as long as the longest serves all."""
    config = recipe.config(model)
    decoder = drawn(config)
    state = decoder.new_state(1, recipe.contexts[-1])
    times: dict[int, list[float]] = {context: [] for context in recipe.contexts}

    def step(context: int) -> float:
        def run() -> None:
            advance(decoder, state, [Work([3], context - 1, 0)])

        return seconds(run, decoder)

    for context in recipe.contexts:  # warms up
        step(context)
    for number in range(recipe.rounds):
        run.progress.update(f"{model}: round {number + 1} of {recipe.rounds}")
        for context, found in times.items():
            found.append(1e3 * min(step(context) for _ in range(recipe.steps)))  # whatever else runs only adds
    kept = [cost.memory(config, cost.Workload(context=context)).sequences for context in recipe.contexts]
    return {
        "parameters": cost.parameters(config),
        "contexts": list(recipe.contexts),
        "bytes": kept,
        "milliseconds": list(times.values()),
        "threads": torch.get_num_threads(),
    }


def judge(directory: Path) -> Found:
    recipe = from_dict(ConstantCost, read_record(directory / "run.json")["recipe"])
    there = records(directory, MODELS)
    findings = [_memory(there), _time(recipe, there), _growth(recipe, there)]
    setting = _setting(recipe, there)
    findings = [each | {"setting": each["setting"] or setting} for each in findings]
    more: Found = {"curves": _curves(there), "tables": [_table(there)]}
    return judgement(findings, [model for model in MODELS if model not in there], **more)


def _setting(recipe: ConstantCost, there: Mapping[str, Any]) -> str:
    sizes = ", ".join(f"{model} {record['parameters'] / 1e6:.1f} M" for model, record in there.items())
    threads = next((f"{record['threads']} threads, " for record in there.values()), "")
    spans = f"{recipe.contexts[0]:,} to {recipe.contexts[-1]:,} tokens"
    return f"This CPU, {threads}widths divided by {recipe.divisor} ({sizes}), bf16, batch 1, {spans}, {recipe.rounds} rounds"


def _memory(there: Mapping[str, Any]) -> Found:
    """Counted, and the same at every size: the real shapes are as good as narrow ones."""
    claim = "A sequence of Mamba-2 layers takes the same memory however long it is"
    if "mamba" not in there:
        return finding(claim, UNFINISHED, f"{claim}: not there yet.")
    kept = there["mamba"]["bytes"]
    verdict = HOLDS if len(set(kept)) == 1 else NOT
    grown = {model: record["bytes"][-1] / record["bytes"][0] for model, record in there.items()}
    told_of = ", ".join(f"{model} {ratio:.1f} times" for model, ratio in grown.items())
    sentence = f"Bytes of a sequence at the longest context beside the shortest: {told_of}."
    return finding(claim, verdict, sentence, figure=grown["mamba"], interval=None)


def _time(recipe: ConstantCost, there: Mapping[str, Any]) -> Found:
    claim = f"A step of Mamba-2 layers takes the same time however long the context is, within {recipe.constant:.0%}"
    if "mamba" not in there:
        return finding(claim, UNFINISHED, f"{claim}: not there yet.")
    ratios = [last / first for first, *_, last in zip(*there["mamba"]["milliseconds"], strict=True)]
    bounds = interval(ratios)
    verdict = within(bounds and [each - 1 for each in bounds], recipe.constant)
    sentence = f"A step at the longest context takes {mean(ratios):.2f} times that at the shortest ({told(bounds)})."
    return finding(claim, verdict, sentence, figure=mean(ratios), interval=bounds)


def _growth(recipe: ConstantCost, there: Mapping[str, Any]) -> Found:
    """A hybrid's attention layers still read their keys and values."""
    claim = f"A step of the hybrid grows with the context by at most {recipe.growth:.0%} of what a Transformer's does"
    if not {"hybrid", "transformer"} <= there.keys():
        return finding(claim, UNFINISHED, f"{claim}: not there yet.")
    grown = {model: _extra(there[model]["milliseconds"]) for model in ("hybrid", "transformer")}
    shares = [one / other for one, other in zip(*grown.values(), strict=True)]
    bounds = interval(shares)
    verdict = above(bounds and [-each for each in reversed(bounds)], -recipe.growth)
    sentence = (
        f"From the shortest to the longest context a step takes {mean(grown['hybrid']):.2f} ms more in the hybrid and "
        f"{mean(grown['transformer']):.2f} ms more in the Transformer: {mean(shares):.0%} ({told(bounds, '.0%')})."
    )
    return finding(claim, verdict, sentence, figure=mean(shares), interval=bounds)


def _extra(milliseconds: Sequence[Sequence[float]]) -> list[float]:
    """Of each round, the last context less the first."""
    return [last - first for first, last in zip(milliseconds[0], milliseconds[-1], strict=True)]


def _curves(there: Mapping[str, Any]) -> list[Found]:
    lines = {
        model: [[context, mean(times)] for context, times in zip(record["contexts"], record["milliseconds"], strict=True)]
        for model, record in there.items()
    }
    return [{"title": "A step of one sequence", "x": "tokens before it", "y": "milliseconds", "lines": lines}]


def _table(there: Mapping[str, Any]) -> Found:
    rows = [
        [model, context, kept, mean(times), min(times), max(times)]
        for model, record in there.items()
        for context, kept, times in zip(record["contexts"], record["bytes"], record["milliseconds"], strict=True)
    ]
    return {"title": "Bytes and time", "headers": ["model", "context", "bytes a sequence", "ms a step", "least", "most"], "rows": rows}
