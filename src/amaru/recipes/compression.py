"""The settings of a compression, and its budget in numbers."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from amaru.compress.blocks import Variants
from amaru.compress.bounds import Bounds
from amaru.compress.budget import Budget
from amaru.compress.costs import Costs, Times, batches
from amaru.compress.local import LocalDistillation
from amaru.compress.ranking import Ranking
from amaru.compress.search import RankBy
from amaru.compress.space import SearchSpace
from amaru.config import Config, to_dict
from amaru.config.units import parse_bytes, parse_count, parse_seconds, parse_share
from amaru.errors import ConfigError
from amaru.models import cost
from amaru.models.checkpoint import Checkpoint
from amaru.models.cost import Workload
from amaru.models.decoder import DecoderConfig
from amaru.models.devices import machine
from amaru.recipes.learning import Learning
from amaru.recipes.text import TextRecipe, outlook
from amaru.recipes.train import describe
from amaru.serve.speed import Timing


class PuzzleRecipe(Config):
    """`PuzzleRecipe(local=LocalDistillation(tokens=100_000))`: how a block is chosen for every layer.

    kept         layers of a kind that stay before blocks are chosen, e.g. {"mamba2": 24}: depth first, by removal; kinds not named: all
    variants     the blocks that each layer offers
    local        how each block is trained by itself before it is scored
    score_by     what replacing one layer by a block costs: KL to the parent, or the change of the loss
    objective    what the choice minimises: the sum of these scores; or, as controls, numbers drawn at random; or it takes the most
                 parameters
    solutions    choices for each batch; each shares at most `alike` of its blocks with every earlier one
    """

    kept: dict[str, int] = Field(default_factory=dict)
    variants: Variants = Variants()
    local: LocalDistillation = LocalDistillation()
    score_by: Literal["kl", "loss"] = "kl"
    objective: Literal["scores", "random", "parameters"] = "scores"
    solutions: int = Field(default=4, gt=0)
    alike: float = Field(default=0.8, gt=0, lt=1)


class CompressRecipe(Config):
    """`CompressRecipe(checkpoint="runs/demo/parent", text=..., memory="60%")`.

    memory, parameters   the budget: "60%" of the parent's, "2GiB" of the workload (`reserve` of it kept free), "300M" parameters
    prefill, decode      and how long a prompt of `prompt` tokens and a step may take: "60%" of the parent's, "30ms", "1.5s"
    throughput           and how many tokens per second the largest batch that fits `memory` must give: "200", or "1.2x" the parent's
                         at the workload's batch
    target               times are bounds at the published peaks of this device (h100), in place of times measured on this machine
    latency_table        the file of measured times; None: a cache by machine, versions and workload
    method               "minipuzzle" gives all layers of a kind one width, "puzzle" chooses a block for every layer by itself
    calibration_rows     rows on which widths are scored; layer_rows: on which layers are removed one by one
    layer_metric         "mse" of the tensor before the head (MiniPuzzle) or "kl" of the logits (Minitron-SSM)
    layers_iteratively   drop the least important layer, score the rest again, and so on (Nemotron Nano 2)
    ffn_after_activation read neurons behind the squared ReLU (MiniPuzzle) instead of before it (Minitron-SSM)
    fluctuation          kinds of layers that are scored as FLAP does, such as mlp
    ranking              how indices are chosen by these scores, such as channels for each head
    ranking_rows         validation rows on which every candidate is ranked without training, by `rank_by`
    finalists            how many are distilled for `short_tokens` each; the better half then for twice as many, in up to `rounds`
                         rounds; the best gets `learning.tokens`
    learning             the long distillation; the short ones differ in their number of tokens only
    prompt, repeats      how speeds are taken: tokens prefilled, and repetitions; decoding is at the workload's context and batch
    """

    checkpoint: str
    text: TextRecipe = Field(default_factory=TextRecipe)
    memory: str | None = None
    reserve: str | None = None
    parameters: str | None = None
    prefill: str | None = None
    decode: str | None = None
    throughput: str | None = None
    most_batch: int = Field(default=64, gt=0)
    target: str | None = None
    latency_table: str | None = None
    method: Literal["minipuzzle", "puzzle"] = "minipuzzle"
    puzzle: PuzzleRecipe = PuzzleRecipe()
    workload: Workload = Workload()
    space: SearchSpace = SearchSpace()
    calibration_rows: int = Field(default=128, gt=0)
    layer_rows: int = Field(default=16, gt=0)
    layer_metric: Literal["mse", "kl"] = "mse"
    layers_iteratively: bool = False
    ffn_after_activation: bool = False
    fluctuation: tuple[str, ...] = ()
    ranking: Ranking = Ranking()
    ranking_rows: int = Field(default=16, gt=0)
    rank_by: RankBy = "loss"
    finalists: int = Field(default=3, gt=0)
    short_tokens: int = Field(default=200_000, gt=0)
    rounds: int = Field(default=2, gt=0)
    learning: Learning = Learning()
    prompt: int = Field(default=1024, gt=0)
    repeats: int = Field(default=5, gt=0)
    seed: int = Field(default=0, ge=0)

    def check(self) -> None:
        if not any((self.memory, self.parameters, self.prefill, self.decode, self.throughput)):
            raise ConfigError(
                "Compression needs a budget: --memory 60%, --memory 2GiB, --params 300M, --prefill-latency 60%, --decode-latency 30ms, "
                "--throughput 1.5x; or several of them."
            )
        if self.throughput is not None and self.memory is None:
            raise ConfigError("--throughput is that of the largest batch that fits; say with --memory what fits.")

    @property
    def timed(self) -> bool:
        """Whether the budget asks how long something takes."""
        return any((self.prefill, self.decode, self.throughput))

    @property
    def timing(self) -> Timing:
        """How speeds are taken: at the context and batch of the budget."""
        context = max(1, self.workload.context)
        return Timing(prompt=self.prompt, batch=self.workload.batch, context=context, steps=min(32, context), repeats=self.repeats)


def forecast(recipe: CompressRecipe, directory: Path) -> dict[str, Any]:
    """What the run would do, without running the model: the budget in numbers, the parent's own figures, the resolved recipe.

    Nothing is measured: limits of time are told as they were asked for, unless a `target` gives its bounds.
    """
    checkpoint = Checkpoint(recipe.checkpoint)
    return {
        "out": str(directory),
        "text": outlook(recipe.text)[0],
        "parent": describe(checkpoint.config),
        "parent_memory": cost.memory(checkpoint.config, recipe.workload).total,
        "budget": " and ".join(_told(recipe, checkpoint.config)),
        "recipe": to_dict(recipe),
    }


def _told(recipe: CompressRecipe, config: DecoderConfig) -> Iterator[str]:
    """The limits in words; those of time are no numbers yet where they will be measured."""
    if recipe.target or not recipe.timed:
        yield budget_of(recipe, config, times_of_target(recipe) if recipe.target else None).describe()
        return
    asked = {name: getattr(recipe, name) for name in ("prefill", "decode", "throughput") if getattr(recipe, name)}
    if recipe.memory or recipe.parameters:
        yield budget_of(replace(recipe, **dict.fromkeys(asked)), config).describe()
    yield from (f"{name} {words} (measured when it runs)" for name, words in asked.items())


def timed_batches(recipe: CompressRecipe) -> tuple[int, ...]:
    """The batches whose step the budget asks about."""
    asks: dict[str, Any] = {"memory": 1, "throughput": 1.0} if recipe.throughput else {"parameters": 1}
    return batches(Budget(**asks, workload=recipe.workload, most_batch=recipe.most_batch))


def times_of_target(recipe: CompressRecipe) -> Times:
    """Bounds of a named device in place of measured times."""
    assert recipe.target is not None
    return Bounds(machine(recipe.target), recipe.workload, recipe.prompt)


def budget_of(recipe: CompressRecipe, config: DecoderConfig, times: Times | None = None) -> Budget:
    """The recipe's words as numbers; shares are of the parent's own under the same workload, of its times as `times` tell them."""
    whole = cost.memory(config, recipe.workload).total
    memory = None if recipe.memory is None else parse_share(recipe.memory, whole) or parse_bytes(recipe.memory)
    reserve = 0 if recipe.reserve is None else parse_share(recipe.reserve, memory or 0) or parse_bytes(recipe.reserve)
    count = cost.parameters(config)
    parameters = None if recipe.parameters is None else parse_share(recipe.parameters, count) or parse_count(recipe.parameters)
    sizes: dict[str, Any] = {"memory": memory, "reserve": reserve, "parameters": parameters}
    rest: dict[str, Any] = {"workload": recipe.workload, "prompt": recipe.prompt, "most_batch": recipe.most_batch}
    if not recipe.timed:
        return Budget(**sizes, **rest)
    asking = 1.0 if recipe.throughput else None
    parent = Costs(config, Budget(**sizes, **rest, prefill=math.inf, decode=math.inf, throughput=asking), times)
    own = parent.of(parent.total(config))
    return Budget(
        **sizes,
        **rest,
        prefill=_seconds(recipe.prefill, float(own.prefill)),
        decode=_seconds(recipe.decode, float(own.decode)),
        throughput=None if recipe.throughput is None else _rate(recipe.throughput, recipe.workload.batch / float(own.decode)),
    )


def _seconds(text: str | None, own: float) -> float | None:
    """"60%" of the parent's own, or a time."""
    if text is None:
        return None
    share = parse_share(text, 10**6)
    return parse_seconds(text) if share is None else share / 10**6 * own


def _rate(text: str, own: float) -> float:
    """"1.2x" the parent's own at the workload's batch (it may not fit the memory), or tokens per second."""
    if not text.strip().lower().endswith("x"):
        return float(parse_count(text))
    try:
        return float(text.strip()[:-1]) * own
    except ValueError:
        raise ConfigError(f"'{text}' is no throughput; write it as 200 tokens per second, or 1.5x the parent's.") from None
