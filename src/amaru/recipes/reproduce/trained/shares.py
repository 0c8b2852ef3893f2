"""About 8 % attention is enough: from no attention to nothing else, on 26 thin layers of one size (2504.03624, 2.1)."""

from collections.abc import Mapping
from pathlib import Path
from statistics import mean

from pydantic import Field

from amaru.errors import ConfigError
from amaru.models import cost
from amaru.models.decoder import DecoderConfig
from amaru.models.pattern import layers_from_pattern
from amaru.nn.attention import Attention
from amaru.nn.layer import LayerConfig
from amaru.nn.mamba2 import Mamba2
from amaru.nn.mlp import MLP
from amaru.nn.rope import Rope
from amaru.recipes.learning import Learning
from amaru.recipes.reproduce.intervals import interval
from amaru.recipes.reproduce.judging import UNFINISHED, Found, above, finding, judgement, told
from amaru.recipes.reproduce.trained.guessing import unlearned
from amaru.recipes.reproduce.trained.sizes import as_large
from amaru.recipes.reproduce.trained.tables import described, scores_maps, scores_table
from amaru.recipes.reproduce.trained.trials import ShortTrials, Trial, loss, read, score

ENOUGH = 2  # attention layers of 26: 8 %


class Shares(ShortTrials):
    """`Shares()`: 0, 4, 8, 15, 50 and 100 % of the layers are attention; half are feed-forward, but where all are attention.

    attention     how many of the layers; parameters are those of the stack with `ENOUGH`
    loss_within   the loss with 8 % may be so much above the least of all shares, relatively
    score_within  and what it recalls so much below the Transformer's, which is half attention
    """

    learning: Learning = Learning(tokens=1_000_000, batch_rows=2, validations=10)
    layers: int = Field(default=26, gt=3)
    attention: tuple[int, ...] = (0, 1, ENOUGH, 4, 13, 26)
    hidden: int = Field(default=128, gt=0)
    loss_within: float = Field(default=0.01, gt=0)
    score_within: float = Field(default=0.03, gt=0)

    def check(self) -> None:
        super().check()
        half = self.layers // 2
        if self.layers % 2 or any(count > half and count != self.layers for count in self.attention):
            raise ConfigError(f"Half of an even number of layers is feed-forward, attention is 0 to {half}, or all; got {self.attention}.")
        if not {0, ENOUGH, half} <= {*self.attention}:
            raise ConfigError(f"The claim compares {ENOUGH} attention layers with none and with {half}; got {self.attention}.")


def pattern(layers: int, attention: int) -> str:
    """`pattern(26, 2)`: mixers and feed-forward layers in turns, attention evenly among the mixers, never first."""
    if attention == layers:
        return "*" * layers
    mixers = layers // 2
    places = {(number + 1) * mixers // (attention + 1) for number in range(attention)} if attention < mixers else set(range(mixers))
    return "".join("*-" if place in places else "M-" for place in range(mixers))


def name_of(recipe: Shares, attention: int) -> str:
    """`8%`"""
    return f"{attention / recipe.layers:.0%}"


def names(recipe: Shares) -> list[str]:
    return [name_of(recipe, attention) for attention in recipe.attention]


def shapes(recipe: Shares, vocab: int) -> dict[str, DecoderConfig]:
    wanted = cost.parameters(_stack(recipe, ENOUGH, vocab))
    return {name_of(recipe, attention): as_large(_stack(recipe, attention, vocab), wanted) for attention in recipe.attention}


def _stack(recipe: Shares, attention: int, vocab: int) -> DecoderConfig:
    """Without Mamba before it nothing tells attention where a token stands, so there it is rotary."""
    heads, said = max(1, recipe.hidden // 32), pattern(recipe.layers, attention)
    kinds: dict[str, LayerConfig] = {
        "M": Mamba2(heads=recipe.hidden // 16, channels=32, groups=1, state=32),
        "*": Attention(query_heads=heads, kv_heads=1, channels=32, rope=None if "M" in said else Rope()),
        "-": MLP(ffn=4 * recipe.hidden),
    }
    return DecoderConfig(vocab=vocab, hidden=recipe.hidden, layers=layers_from_pattern(said, kinds))  # type: ignore[arg-type]


def judge(directory: Path) -> Found:
    trial = read(Shares, names, directory)
    recipe: Shares = trial.recipe
    found = [_loss(trial, recipe), *(_recall(trial, recipe, task.name) for task in recipe.tasks() if task.name != "copy")]
    return judgement(found, trial.missing, curves=[_curve(trial, recipe)], maps=scores_maps(trial), tables=[scores_table(trial)])


def _loss(trial: Trial, recipe: Shares) -> Found:
    """Beside the share whose mean loss is least, seed by seed."""
    enough, claim = name_of(recipe, ENOUGH), f"With 8 % attention the loss is at most {recipe.loss_within:.0%} above the best share's"
    means = {name: mean(some) for name in names(recipe) if len(some := trial.values(name, loss).values()) == len(recipe.seeds)}
    if len(means) < len(recipe.attention):
        return finding(claim, UNFINISHED, f"{claim}: {len(means)} of {len(recipe.attention)} shares are there.", setting=described(trial))
    best = min((name for name in means if name != enough), key=lambda name: means[name])
    gaps = trial.gaps(enough, best, loss, relative=True)
    bounds = interval(gaps)
    assert bounds is not None, "every share has all seeds, of which there are at least two"
    verdict = above([-bounds[1], -bounds[0]], -recipe.loss_within)
    sentence = f"Loss {mean(gaps):+.2%} beside {best}, the best other share ({told(bounds, '+.2%')}); {_listed(means)}."
    return finding(claim, verdict, sentence, setting=described(trial), figure=mean(gaps), interval=bounds)


def _recall(trial: Trial, recipe: Shares, task: str) -> Found:
    """Not below the Transformer; what no attention at all comes to stands beside."""
    enough, half = name_of(recipe, ENOUGH), name_of(recipe, recipe.layers // 2)
    claim = f"With 8 % attention {task} is at most {100 * recipe.score_within:.0f} points below that with {half}"
    if found := unlearned(trial, claim, task, (enough, half)):
        return found
    gaps = trial.gaps(enough, half, score(task))
    bounds = interval(gaps)
    if bounds is None:
        return finding(claim, UNFINISHED, f"{claim}: {len(gaps)} pairs are there, and an interval needs two.", setting=described(trial))
    means = {name: mean(some) for name in names(recipe) if (some := trial.values(name, score(task)).values())}
    points = [100 * each for each in bounds]
    sentence = f"{task.capitalize()}: {100 * mean(gaps):+.1f} points beside {half} ({told(points, '+.1f')}); {_listed(means)}."
    return finding(claim, above(bounds, -recipe.score_within), sentence, setting=described(trial), figure=mean(gaps), interval=bounds)


def _listed(means: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in means.items())


def _curve(trial: Trial, recipe: Shares) -> Found:
    lines: dict[str, list[list[float]]] = {}
    for attention in recipe.attention:
        for seed, value in trial.values(name_of(recipe, attention), loss).items():
            lines.setdefault(f"seed {seed}", []).append([100 * attention / recipe.layers, value])
    return {"title": "Loss by share of attention", "x": "attention layers, %", "y": "loss", "lines": lines, "log_x": False}
