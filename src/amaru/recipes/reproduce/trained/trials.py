"""Shapes trained on the same tokens in the same batches, a cell for each shape and seed, and what each then can do."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic import Field

from amaru.config import Config, from_dict
from amaru.config.records import read_lines, read_record
from amaru.errors import ConfigError
from amaru.eval.long_context.grid import ProbeTask
from amaru.eval.recall import RecallTask
from amaru.eval.subject import Subject
from amaru.eval.task import Task, measure
from amaru.models import cost
from amaru.models.checkpoint import fingerprint
from amaru.models.decoder import Decoder, DecoderConfig
from amaru.recipes.compare import for_arithmetic, quality, speed
from amaru.recipes.evaluate import facts
from amaru.recipes.fit import fit
from amaru.recipes.learning import Learning
from amaru.recipes.reproduce.trained.attention import attention_facts
from amaru.recipes.reproduce.trained.mixture import SOURCES, mixture
from amaru.recipes.reproduce.workers import Silence, workers
from amaru.recipes.run import Run
from amaru.recipes.text import ONLY, PYTHON, Text, TextRecipe
from amaru.serve.speed import Timing
from amaru.train.objective import CrossEntropy

V = TypeVar("V")
Record = Mapping[str, Any]
Records = Mapping["Cell", Record]
Shapes = Callable[[Any, int], dict[str, DecoderConfig]]
MEMORY = 2**28  # bytes for caches while a small model answers
LOOKED_AT = 4  # validation rows whose attention is looked at


class Trials(Config):
    """What is read, how it is learned, and what is asked afterwards.

    weights          shares of tokens: text, and what is made here: recall (pairs and copies), passkey, sums
    alphabet         how many different tokens pairs and copies are made of
    longest          tokens of a document of them; a row unless said, and what is shorter is learned sooner
    rates            peak learning rates: each shape tries all with the first seed, and has the best with the others
    seeds            of first weights and batches; all shapes share them
    recall, passkey  lengths that are asked for afterwards, in tokens; what is beyond a row was never seen in training
    learned          how far above guessing a mean score must be before two of them are compared
    samples          sequences of each length (and depth: beginning, middle, end)
    timing           of the speeds, which are taken when all cells are there
    context          tokens of the sequence whose bytes are counted
    """

    text: TextRecipe = TextRecipe(data=(PYTHON,), vocab=2048, row_length=256, limit_megabytes=8.0)
    weights: dict[str, float] = Field(default_factory=lambda: {ONLY: 0.4, "recall": 0.4, "passkey": 0.1, "sums": 0.1})
    alphabet: int = Field(default=32, gt=1)
    longest: int | None = Field(default=None, gt=0)
    learning: Learning = Learning(tokens=1_800_000, batch_rows=2, validations=10)
    rates: tuple[float, ...] = (1e-3, 2e-3)
    seeds: tuple[int, ...] = (0, 1, 2)
    recall: tuple[int, ...] = (16, 32, 64)
    passkey: tuple[int, ...] = (128, 256, 512)
    samples: int = Field(default=20, gt=0)
    learned: float = Field(default=0.1, gt=0)
    timing: Timing = Timing(prompt=1024, batch=8, context=4096, steps=16, repeats=7)
    context: int = Field(default=8192, gt=0)

    def check(self) -> None:
        if len(set(self.seeds)) < 2:
            raise ConfigError(f"An interval needs at least two different seeds; got {list(self.seeds)}.")
        if not self.rates or min(self.rates) <= 0:
            raise ConfigError(f"rates needs at least one learning rate above 0; got {list(self.rates)}.")
        if unknown := sorted(self.weights.keys() - {ONLY, *SOURCES}):
            raise ConfigError(f"There is no text named '{unknown[0]}' to mix in; there is: {ONLY}, {', '.join(SOURCES)}.")
        if ONLY not in self.weights or min(self.weights.values()) <= 0:
            raise ConfigError(f"weights are positive, and '{ONLY}' is among them; got {self.weights}.")

    def tasks(self) -> list[Task]:
        """What is asked of a trained model; none for what it was not taught."""
        found: list[Task] = []
        if "recall" in self.weights:
            found += [RecallTask(name, self.recall, self.samples, alphabet=self.alphabet) for name in ("recall", "copy")]
        if "passkey" in self.weights:
            found.append(ProbeTask("passkey", self.passkey, (0.0, 0.5, 1.0), self.samples))
        return found


class ShortTrials(Trials):
    """Of slow shapes, with fewer tokens: more of these teach recall, in short documents of few symbols, and one rate is tried."""

    weights: dict[str, float] = Field(default_factory=lambda: {ONLY: 0.4, "recall": 0.6})
    alphabet: int = Field(default=16, gt=1)
    longest: int | None = Field(default=64, gt=0)
    recall: tuple[int, ...] = (16, 32)
    rates: tuple[float, ...] = (2e-3,)


class Cell(NamedTuple):
    """One training run; its record is `cell-NAME.json`. Without a `rate` it has the one that was best with the first seed."""

    shape: str
    seed: int
    rate: float | None = None

    @property
    def name(self) -> str:
        return f"{self.shape}-seed{self.seed}" + ("" if self.rate is None else f"-lr{self.rate:g}")


def cells(recipe: Trials, names: Sequence[str]) -> Iterator[Cell]:
    """All shapes at all rates with the first seed, then with the next seeds."""
    first, *others = recipe.seeds
    yield from (Cell(name, first, rate) for name in names for rate in recipe.rates)
    yield from (Cell(name, seed) for seed in others for name in names)


def make(shapes: Shapes, recipe: Trials, run: Run, jobs: int = 1) -> None:
    """Train and question every cell that has no record yet, `jobs` at a time; then take speeds, with nothing beside them."""
    text = mixture(recipe.text, recipe.weights, recipe.learning.tokens, recipe.alphabet, recipe.longest, run)
    configs = shapes(recipe, text.tokenizer.vocab_size)
    wanted = list(cells(recipe, [*configs]))
    with workers(jobs) as hand_out:
        for some in ([cell for cell in wanted if cell.rate], [cell for cell in wanted if not cell.rate]):  # rates are chosen in between
            asked = [(cell, cell.rate or best(run.directory, recipe, cell.shape).rate or 0.0) for cell in some]
            origins = [{"shape": repr(configs[cell.shape]), "text": text.fingerprint, "rate": str(rate)} for cell, rate in asked]
            given = [
                (cell, origin, hand_out(make_cell, recipe, cell, rate, configs[cell.shape], text, run.path("cells")))
                for (cell, rate), origin in zip(asked, origins, strict=True)
                if not run.is_kept(f"cell-{cell.name}.json", origin)
            ]
            for cell, origin, answer in given:
                run.result(f"cell-{cell.name}", origin, answer, title=cell.name)
    for name in configs:
        speed(run, name, checkpoint_of(run.directory, best(run.directory, recipe, name)), recipe.timing)


def best(directory: Path, recipe: Trials, shape: str) -> Cell:
    """Of a shape's cells with the first seed the one whose loss is lowest."""
    tried = [Cell(shape, recipe.seeds[0], rate) for rate in recipe.rates]
    return min(tried, key=lambda cell: read_record(directory / f"cell-{cell.name}.json")["loss"])


def checkpoint_of(directory: Path, cell: Cell) -> Path:
    return directory / "cells" / cell.name / "model"


def make_cell(recipe: Trials, cell: Cell, rate: float, config: DecoderConfig, text: Text, directory: Path) -> dict[str, Any]:
    """Train and question one model in a run directory of its own, which a later call goes on with."""
    training = replace(recipe.learning, lr=rate).training(text.row_length, cell.seed)
    batches = text.batches(training.steps, training.batch_rows, cell.seed)
    origin = {"shape": repr(config), "seed": str(cell.seed)}
    with Run(directory / cell.name, "cell", recipe, Silence()) as run:
        checkpoint = fit(run, "model", text, training, lambda: Decoder(config).initialise(cell.seed), CrossEntropy, origin, batches=batches)
        found = quality(run, "model", checkpoint, text, recipe.learning.dtype)
        answers = run.result("answers", {"checkpoint": fingerprint(checkpoint)}, lambda: _answers(recipe, checkpoint, text))
        seconds = sum(step["seconds"] for step in read_lines(run.path("model-training") / "metrics.jsonl"))
    kept = cost.memory(config, cost.Workload(context=recipe.context))
    return {
        "shape": cell.shape,
        "seed": cell.seed,
        "rate": rate,
        "parameters": cost.parameters(config),
        "tokens": training.steps * training.batch_rows * text.row_length,
        "seconds": seconds,
        "bytes": kept.sequences - kept.kv_meta,
        "loss": found["loss"],
        "accuracy": found["accuracy"],
        **answers,
    }


def _answers(recipe: Trials, checkpoint: Path, text: Text) -> dict[str, Any]:
    """Scores of the tasks with their cells, and what attention heads look at."""
    decoder = for_arithmetic(checkpoint, recipe.learning.dtype)
    subject = Subject(decoder, text.tokenizer, fingerprint(checkpoint), memory=MEMORY)
    tasks = {task.name: facts(measure(task, subject)) for task in recipe.tasks()}
    rows = [text.validation.row(index).ids for index in range(min(LOOKED_AT, len(text.validation)))]
    return {"tasks": tasks, "attention": attention_facts(decoder, rows)}


class Trial(NamedTuple):
    """All that a verdict is made of: the settings, the records that are there, speeds by shape, and the names of missing cells."""

    recipe: Any
    records: Records
    speeds: Mapping[str, Record]
    missing: list[str]

    def values(self, shape: str, key: Callable[[Record], V]) -> dict[int, V]:
        """By seed, of the cells that are there; of several rates the one with the lowest loss counts, once all are there."""
        found: dict[int, list[Record]] = {}
        for cell, record in self.records.items():
            if cell.shape == shape:
                found.setdefault(cell.seed, []).append(record)
        whole = {seed: len(self.recipe.rates) if seed == self.recipe.seeds[0] else 1 for seed in found}
        return {seed: key(min(some, key=loss)) for seed, some in found.items() if len(some) == whole[seed]}

    def gaps(self, one: str, other: str, key: Callable[[Record], float], relative: bool = False) -> list[float]:
        """How much larger a value of `one` is than of `other`, seed by seed."""
        first, second = self.values(one, key), self.values(other, key)
        return [first[seed] / second[seed] - 1 if relative else first[seed] - second[seed] for seed in first if seed in second]


def read(kind: type[Trials], names: Callable[[Any], list[str]], directory: Path) -> Trial:
    recipe = from_dict(kind, read_record(directory / "run.json")["recipe"])
    wanted = list(cells(recipe, names(recipe)))
    there = {cell: read_record(path) for cell in wanted if (path := directory / f"cell-{cell.name}.json").exists()}
    files = {name: directory / f"speed-{name}.json" for name in names(recipe)}
    speeds = {name: read_record(path) for name, path in files.items() if path.exists()}
    return Trial(recipe, there, speeds, [cell.name for cell in wanted if cell not in there])


def loss(record: Record) -> float:
    return record["loss"]


def score(task: str) -> Callable[[Record], float]:
    """`score("recall")`: the leading metric of a task."""
    return lambda record: next(iter(record["tasks"][task]["metrics"].values()))["mean"]
