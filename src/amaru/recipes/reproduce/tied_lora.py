"""Tied-LoRA beside LoRA (arXiv 2311.09578): small models, real tasks, every method and rank a cell, and a verdict from their records."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field

from amaru.adapters import LoRA, Method, TiedLoRA
from amaru.config import Config
from amaru.config.records import read_lines
from amaru.errors import ConfigError
from amaru.models.checkpoint import Checkpoint, fingerprint
from amaru.models.decoder import DecoderConfig
from amaru.recipes.adapt import AdaptRecipe, learned, scored, text_of, trained_count
from amaru.recipes.learning import Learning
from amaru.recipes.reproduce.workers import Silence, workers
from amaru.recipes.run import Run
from amaru.recipes.shape import Shape
from amaru.recipes.text import Text, TextRecipe
from amaru.recipes.train import TrainRecipe, train_model

Score = Literal["likelihood", "accuracy", "exact"]
Subset = tuple[Literal["A", "B", "u", "v"], ...]

# By the name of a method which factors are trained, A and B being tied. The paper's names where they are certain.
TIED: dict[str, Subset] = {
    "TL6": ("A", "B", "u", "v"),
    "TL5": ("A", "B"),
    "VeRA-equivalent": ("u", "v"),
    "A alone": ("A",),
    "B alone": ("B",),
    "A, u, v": ("A", "u", "v"),
    "B, u, v": ("B", "u", "v"),
}
ONE_LAYER = "LoRA in one layer"
OTHERS = (*list(TIED)[1:], ONE_LAYER)


class Task(Config):
    """`Task(data=("answers-train.jsonl",), held_out=("answers-test.jsonl",))`: prompts and completions, as `amaru adapt` takes them.

    score   of the completions held out. likelihood: geometric mean of the probabilities of their tokens; accuracy: share of tokens that
            are the likeliest; exact: share of completions that greedy decoding says word for word
    epochs  how often each is seen
    """

    data: tuple[str, ...] = Field(min_length=1)
    held_out: tuple[str, ...] = Field(min_length=1)
    score: Score = "likelihood"
    epochs: float = Field(default=1.0, gt=0)


class Base(Config):
    """A model to adapt, and which of its projections; `alone` is the layer of `LoRA in one layer`."""

    shape: Shape
    targets: tuple[str, ...]
    alone: int


SMALL: dict[str, Any] = {"hidden": 128, "ffn": 256, "groups": 1, "state": 32, "kv_heads": 4}
HYBRID = Base(shape=Shape(pattern="M-M-M*-M-M-", **SMALL), targets=("mamba",), alone=2)
TRANSFORMER = Base(shape=Shape(pattern="*-*-*-*-*-*-", **SMALL), targets=("q_proj", "k_proj", "v_proj"), alone=2)
HYBRID_NAME, TRANSFORMER_NAME = "hybrid", "transformer"


class TiedLoraTrials(Config):
    """`TiedLoraTrials(text=TextRecipe(data=("stories.txt",)), tasks={"answers": Task(...)})`; the first task is that of all ranks.

    text, pretraining  what both models learn first, and how long
    rank, ranks        of all methods; and others, of LoRA and TL6 on the first task
    others, high       which of the other methods, and the rank at which the tied ones of them are tried again
    frozen_std         standard deviation of A and B where one of them does not learn: that of the first author's code
    learning, rates    how adapters learn, and the peak learning rate by method, where it is not that
    within             so much less, relatively, counts as the same (the paper: 1 to 2 %)
    """

    text: TextRecipe
    tasks: dict[str, Task] = Field(min_length=1)
    hybrid: Base = HYBRID
    transformer: Base = TRANSFORMER
    pretraining: Learning = Learning(tokens=600_000, batch_rows=8, lr=4e-3)
    rank: int = Field(default=8, gt=0)
    ranks: tuple[int, ...] = (2, 32, 128)
    others: tuple[str, ...] = OTHERS
    high: int = Field(default=128, gt=0)
    frozen_std: float = Field(default=1.0, gt=0)
    seeds: tuple[int, ...] = (0, 1, 2)
    row_length: int = Field(default=256, gt=1)
    learning: Learning = Learning(batch_rows=2, lr=5e-3, weight_decay=0.0, expert_balance=0.0, validations=1)
    rates: dict[str, float] = Field(default_factory=dict)
    within: float = Field(default=0.02, gt=0, lt=1)

    def check(self) -> None:
        if len(set(self.seeds)) < 2:
            raise ConfigError(f"An interval needs at least two different seeds; got {list(self.seeds)}.")
        if unknown := sorted({*self.rates, *self.others} - {"LoRA", *TIED, ONE_LAYER}):
            raise ConfigError(f"There is no method '{unknown[0]}'; there is: LoRA, {', '.join((*TIED, ONE_LAYER))}.")
        if self.rank in self.ranks:
            raise ConfigError(f"Rank {self.rank} is tried anyway; leave it out of ranks.")

    @property
    def bases(self) -> dict[str, Base]:
        return {TRANSFORMER_NAME: self.transformer, HYBRID_NAME: self.hybrid}


class Cell(NamedTuple):
    """One adapter; its record is `cell-NAME.json`."""

    base: str
    task: str
    method: str
    rank: int
    seed: int

    @property
    def name(self) -> str:
        method = self.method.replace(", ", "").replace(" ", "-")
        return f"{self.base}-{self.task}-{method}-r{self.rank}-seed{self.seed}"


def cells(recipe: TiedLoraTrials) -> Iterator[Cell]:
    """In the order they are run: LoRA and TL6 everywhere; then the other ranks; then the other methods, on the Transformer with all seeds
    and again at the high rank, on the hybrid with one."""
    first, bases = next(iter(recipe.tasks)), list(recipe.bases)
    for seed in recipe.seeds:
        yield from (Cell(base, task, method, recipe.rank, seed) for task in recipe.tasks for base in bases for method in ("LoRA", "TL6"))
    for seed in recipe.seeds:
        yield from (Cell(base, first, method, rank, seed) for rank in recipe.ranks for base in bases for method in ("LoRA", "TL6"))
    for seed in recipe.seeds:
        yield from (Cell(TRANSFORMER_NAME, first, method, recipe.rank, seed) for method in recipe.others)
        yield from (Cell(TRANSFORMER_NAME, first, method, recipe.high, seed) for method in recipe.others if method != ONE_LAYER)
    yield from (Cell(HYBRID_NAME, first, method, recipe.rank, recipe.seeds[0]) for method in recipe.others)


def make(recipe: TiedLoraTrials, run: Run, jobs: int = 1) -> None:
    """Train both models, then every cell that has no record yet, `jobs` at a time."""
    starts = {
        name: train_model(TrainRecipe(text=recipe.text, shape=base.shape, learning=recipe.pretraining), run, f"base-{name}").checkpoint
        for name, base in recipe.bases.items()
    }
    one = next(iter(starts))
    texts = {
        task: text_of(recipe_of(recipe, Cell(one, task, "LoRA", recipe.rank, 0), starts[one]), run, task) for task in recipe.tasks
    }
    for base, start in starts.items():
        for task, text in texts.items():
            asked = recipe_of(recipe, Cell(base, task, "LoRA", recipe.rank, 0), start)
            scored(asked, run, before(base, task), text, None)
    waiting = [(cell, _made_from(recipe, cell, starts[cell.base], texts[cell.task])) for cell in cells(recipe)]
    waiting = [each for each in waiting if not run.is_kept(f"cell-{each[0].name}.json", each[1])]
    with workers(jobs) as hand_out:
        given = [
            (cell, origin, hand_out(make_cell, recipe_of(recipe, cell, starts[cell.base]), cell, texts[cell.task], run.path("cells")))
            for cell, origin in waiting
        ]
        for cell, origin, answer in given:
            run.result(f"cell-{cell.name}", origin, answer, title=cell.name)


def _made_from(recipe: TiedLoraTrials, cell: Cell, start: Path, text: Text) -> dict[str, str]:
    asked = recipe_of(recipe, cell, start)
    return {"start": fingerprint(start), "method": repr(asked.method), "learning": repr(asked.learning), "text": text.fingerprint}


def before(base: str, task: str) -> str:
    """What the scores of a model without adapter are kept as."""
    return f"{base}-{task}"


def make_cell(recipe: AdaptRecipe, cell: Cell, text: Text, directory: Path) -> dict[str, Any]:
    """Train and score one adapter in a run directory of its own, which a later call goes on with."""
    with Run(directory / cell.name, "cell", recipe, Silence()) as run:
        result = learned(recipe, run, text)
        seconds = sum(step["seconds"] for step in read_lines(run.path(f"{result.name}-training") / "metrics.jsonl"))
        answered = scored(recipe, run, "after", text, result)
    counted = trained_count(recipe, Checkpoint(recipe.start).config)
    return {**cell._asdict(), "trained": counted, "lr": recipe.learning.lr, "seconds": seconds, "answers": answered}


def recipe_of(recipe: TiedLoraTrials, cell: Cell, start: str | Path) -> AdaptRecipe:
    """What `amaru adapt` would be told for a cell."""
    task, base = recipe.tasks[cell.task], recipe.bases[cell.base]
    method = method_of(cell, base, Checkpoint(start).config, recipe.frozen_std)
    learning = replace(recipe.learning, lr=recipe.rates.get(cell.method, recipe.learning.lr))
    return AdaptRecipe(
        start=str(start),
        data=task.data,
        held_out=task.held_out,
        lora=method if isinstance(method, LoRA) else None,
        tied_lora=method if isinstance(method, TiedLoRA) else None,
        template="plain",
        row_length=recipe.row_length,
        epochs=task.epochs,
        learning=learning,
        seed=cell.seed,
    )


def method_of(cell: Cell, base: Base, config: DecoderConfig, frozen_std: float) -> Method:
    """Unscaled, alpha being the rank; q, k and v are one product with one A, as in the paper."""
    said: dict[str, Any] = {"targets": base.targets, "fuse": True, "alpha": None, "seed": cell.seed}
    if cell.method == "LoRA":
        return LoRA(rank=cell.rank, **said)
    if cell.method == ONE_LAYER:
        equal = TiedLoRA(rank=cell.rank, **said).trained_count(config)
        one = LoRA(rank=1, layers=(base.alone,), **said).trained_count(config)
        return LoRA(rank=max(1, round(equal / one)), layers=(base.alone,), **said)
    trained = TIED[cell.method]
    drawn = {} if {"A", "B"} <= set(trained) else {"init": "normal", "std": frozen_std}
    return TiedLoRA(rank=cell.rank, trained=trained, **drawn, **said)
