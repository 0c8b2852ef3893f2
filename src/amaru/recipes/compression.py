"""The settings of a compression, and its budget in numbers."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from amaru.compress.budget import Budget
from amaru.compress.space import SearchSpace
from amaru.config import Config, to_dict
from amaru.config.units import parse_bytes, parse_count, parse_share
from amaru.errors import ConfigError
from amaru.models import cost
from amaru.models.checkpoint import Checkpoint
from amaru.models.cost import Workload
from amaru.recipes.learning import Learning
from amaru.recipes.text import TextRecipe, outlook
from amaru.recipes.train import describe
from amaru.serve.speed import Timing


class CompressRecipe(Config):
    """`CompressRecipe(checkpoint="runs/demo/parent", text=..., memory="60%")`.

    memory, parameters   the budget: "60%" of the parent, "2GiB" of the workload, "300M" parameters; one of them or both
    calibration_rows     rows on which widths are scored; layer_rows: on which layers are removed one by one
    layer_metric         "mse" of the tensor before the head (MiniPuzzle) or "kl" of the logits (Minitron-SSM)
    layers_iteratively   drop the least important layer, score the rest again, and so on (Nemotron Nano 2)
    ffn_after_activation read neurons behind the squared ReLU (MiniPuzzle) instead of before it (Minitron-SSM)
    ranking_rows         validation rows on which every candidate is ranked without training
    finalists            how many are distilled for `short_tokens` each; the best then gets `learning.tokens`
    learning             the long distillation; the short ones differ in their number of tokens only
    prompt, repeats      how speeds are taken: tokens prefilled, and repetitions; decoding is at the workload's context and batch
    """

    checkpoint: str
    text: TextRecipe = Field(default_factory=TextRecipe)
    memory: str | None = None
    parameters: str | None = None
    workload: Workload = Workload()
    space: SearchSpace = SearchSpace()
    calibration_rows: int = Field(default=128, gt=0)
    layer_rows: int = Field(default=16, gt=0)
    layer_metric: Literal["mse", "kl"] = "mse"
    layers_iteratively: bool = False
    ffn_after_activation: bool = False
    ranking_rows: int = Field(default=16, gt=0)
    finalists: int = Field(default=3, gt=0)
    short_tokens: int = Field(default=200_000, gt=0)
    learning: Learning = Learning()
    prompt: int = Field(default=1024, gt=0)
    repeats: int = Field(default=5, gt=0)
    seed: int = Field(default=0, ge=0)

    def check(self) -> None:
        if self.memory is None and self.parameters is None:
            raise ConfigError("Compression needs a budget: --memory 60%, --memory 2GiB, --params 300M, or two of them.")

    @property
    def timing(self) -> Timing:
        """How speeds are taken: at the context and batch of the budget."""
        context = max(1, self.workload.context)
        return Timing(prompt=self.prompt, batch=self.workload.batch, context=context, steps=min(32, context), repeats=self.repeats)


def forecast(recipe: CompressRecipe, directory: Path) -> dict[str, Any]:
    """What the run would do, without running the model: the budget in numbers, the parent's own figures, the resolved recipe."""
    checkpoint = Checkpoint(recipe.checkpoint)
    return {
        "out": str(directory),
        "text": outlook(recipe.text)[0],
        "parent": describe(checkpoint.config),
        "parent_memory": cost.memory(checkpoint.config, recipe.workload).total,
        "budget": budget_of(recipe, checkpoint).describe(),
        "recipe": to_dict(recipe),
    }


def budget_of(recipe: CompressRecipe, checkpoint: Checkpoint) -> Budget:
    """The recipe's words as numbers; a share of memory is of the parent's own under the same workload."""
    whole = cost.memory(checkpoint.config, recipe.workload).total
    memory = None if recipe.memory is None else parse_share(recipe.memory, whole) or parse_bytes(recipe.memory)
    count = cost.parameters(checkpoint.config)
    parameters = None if recipe.parameters is None else parse_share(recipe.parameters, count) or parse_count(recipe.parameters)
    return Budget(memory=memory, parameters=parameters, workload=recipe.workload)
