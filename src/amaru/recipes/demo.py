"""The whole path on one small model: train, compress, distil, and hold the student against a fair twin. `amaru demo`."""

import shlex
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

from pydantic import Field

from amaru.compress.space import SearchSpace
from amaru.config import Config, from_dict, to_dict
from amaru.config.records import read_record
from amaru.data.tokenizer import Tokenizer
from amaru.errors import ConfigError
from amaru.models.checkpoint import Checkpoint, fingerprint, load
from amaru.models.cost import Workload
from amaru.models.decoder import Decoder
from amaru.recipes.compare import quality, speed
from amaru.recipes.compress import Compressed, compress
from amaru.recipes.compression import CompressRecipe
from amaru.recipes.distill import distil_student
from amaru.recipes.fit import fit
from amaru.recipes.learning import Learning
from amaru.recipes.pace import training_pace
from amaru.recipes.run import Progress, Run
from amaru.recipes.shape import Shape
from amaru.recipes.text import PYTHON, VOCAB, Text, TextRecipe
from amaru.recipes.train import Trained, TrainRecipe, train_model
from amaru.serve.generate import generate
from amaru.serve.request import Settings
from amaru.serve.sampler import Sampling
from amaru.train.objective import CrossEntropy

TEXT = TextRecipe(data=(PYTHON,), vocab=2048, row_length=256, limit_megabytes=8.0)
SHAPE = Shape(pattern="M-M-M*-M-M-", hidden=192, groups=2, mamba_channels=32, state=64)


class DemoRecipe(Config):
    """`DemoRecipe()`: sized for two cores and less than ten minutes; every number below can be changed.

    memory       the student's budget, as a share of the parent's memory under the workload
    learning     of the student; the twin gets the same tokens, steps and batches
    twin_lrs     peak learning rates that the twin may choose from
    seeds        data orders (and twin's first weights) over which student and twin are repeated
    """

    text: TextRecipe = TEXT
    shape: Shape = SHAPE
    parent: Learning = Learning(tokens=900_000, batch_rows=2, lr=4e-3, validations=10)
    memory: str = "60%"
    short_tokens: int = Field(default=40_000, gt=0)
    learning: Learning = Learning(tokens=160_000, batch_rows=2, lr=2e-3)
    twin_lrs: tuple[float, ...] = (2e-3, 4e-3, 8e-3)
    seeds: tuple[int, ...] = (0, 1, 2)
    prompts: tuple[str, ...] = ("import os\n", "def __init__(self, ", "class Test")
    workload: Workload = Workload(context=4096)
    prompt: int = Field(default=1024, gt=0)
    repeats: int = Field(default=5, gt=0)

    def check(self) -> None:
        if len(set(self.seeds)) < 2 or len(set(self.seeds)) < len(self.seeds):
            raise ConfigError(f"The demo needs at least two different seeds to know how much they matter; got {list(self.seeds)}.")
        if not self.twin_lrs or min(self.twin_lrs) <= 0:
            raise ConfigError(f"The twin needs at least one learning rate above 0 to choose from; got {list(self.twin_lrs)}.")

    def compression(self, checkpoint: Path) -> CompressRecipe:
        """The settings that `amaru compress` would be given."""
        return CompressRecipe(
            checkpoint=str(checkpoint),
            text=replace(self.text, vocab=None),
            memory=self.memory,
            space=SearchSpace(limit=32),
            short_tokens=self.short_tokens,
            rounds=1,
            learning=self.learning,
            workload=self.workload,
            prompt=self.prompt,
            seed=self.seeds[0],
            repeats=self.repeats,
        )


FULL_PACE = 4500  # tokens a second of the parent's training step at which the whole demo takes nine minutes
SHARES = (1.0, 0.75, 0.5, 0.35, 0.25, 0.15, 0.1)


def paced(recipe: DemoRecipe, tokens_per_second: float) -> DemoRecipe:
    """`paced(recipe, 2000.0)`: with so much less text and so many fewer tokens that a slower machine needs no more time.

    The share is one of a few steps, so that small differences of speed do not change the results.
    """
    share = next((share for share in SHARES if share <= tokens_per_second / FULL_PACE), SHARES[-1])
    megabytes = recipe.text.limit_megabytes

    def fewer(learning: Learning) -> Learning:
        return replace(learning, tokens=max(1, round(share * learning.tokens)))

    return replace(
        recipe,
        text=recipe.text if megabytes is None else replace(recipe.text, limit_megabytes=share * megabytes),
        parent=fewer(recipe.parent),
        learning=fewer(recipe.learning),
        short_tokens=max(1, round(share * recipe.short_tokens)),
    )


def fitting_recipe(out: Path, progress: Progress) -> DemoRecipe:
    """The recipe of the run that is in `out` already, or one that fits this machine's speed."""
    if (out / "run.json").exists():
        record = read_record(out / "run.json")
        return from_dict(DemoRecipe, record["recipe"]) if record.get("kind") == "demo" else DemoRecipe()
    progress.update("Measuring how fast this machine trains (compiling kernels, the first time) ...")
    whole = DemoRecipe()
    pace = training_pace(whole.shape.resolve(whole.text.vocab or VOCAB), whole.parent, whole.text.row_length)
    recipe = paced(whole, pace)
    progress.note(f"This machine trains the parent at {pace:,.0f} tokens/s; it will see {recipe.parent.tokens:,} tokens.")
    if recipe.parent.tokens < whole.parent.tokens:
        share = recipe.parent.tokens / whole.parent.tokens
        progress.note(f"That is {share:.0%} of the full demo, to stay within ten minutes; `amaru env` tells what is slow, and why.")
    return recipe


def demo(recipe: DemoRecipe, run: Run) -> dict[str, Any]:
    """Every stage in its own run directory below this one; returns the comparison, the verdict and samples."""
    note = run.progress.note
    note("1. The parent")
    parent = _train_parent(recipe, run)
    note("2. The compression")
    compression = recipe.compression(parent.checkpoint)
    with Run(run.path("compress"), "compress", compression, run.progress) as inner:
        compressed = compress(compression, inner)
    note("3. The twin: the student's shape from scratch on the same tokens, and both again with other seeds")
    runs = _seeds(recipe, run, parent, compressed)
    verdict = judge(runs)
    note("4. The comparison")
    twin = run.path(verdict["twin_folder"].removesuffix("-training"))
    rows = _rows(recipe, run, parent, compressed, twin)
    samples = _samples(recipe, run, parent, compressed)
    found = {
        "rows": rows,
        "runs": runs,
        "verdict": verdict,
        "samples": samples,
        "timing": to_dict(compression.timing),
        "next": _next(run.directory, compressed.student),
    }
    run.write("comparison.json", found)
    return found


def _train_parent(recipe: DemoRecipe, run: Run) -> Trained:
    training = TrainRecipe(text=recipe.text, shape=recipe.shape, learning=recipe.parent)
    with Run(run.path("parent"), "train", training, run.progress) as inner:
        return train_model(training, inner)


def _seeds(recipe: DemoRecipe, run: Run, parent: Trained, compressed: Compressed) -> list[dict[str, Any]]:
    """Validation losses of the student with every seed, of the twin at every rate with the first and at the best with all."""
    text, first = compressed.text, recipe.seeds[0]
    runs = []
    for seed in recipe.seeds:
        student = compressed.student if seed == first else _student(recipe, run, parent, seed, text)
        runs.append(_entry(recipe, run, "student", recipe.learning.lr, seed, student, text))
    tried = [_entry(recipe, run, "twin", lr, first, _twin(recipe, run, compressed, lr, first), text) for lr in recipe.twin_lrs]
    best = min(tried, key=lambda entry: entry["loss"])["lr"]
    again = [
        _entry(recipe, run, "twin", best, seed, _twin(recipe, run, compressed, best, seed), text) for seed in recipe.seeds if seed != first
    ]
    return runs + tried + again


def _student(recipe: DemoRecipe, run: Run, parent: Trained, seed: int, text: Text) -> Path:
    pruned = run.path("compress") / "pruned"
    return distil_student(run, f"student-seed{seed}", parent.checkpoint, pruned, recipe.learning, seed, text)


def _twin(recipe: DemoRecipe, run: Run, compressed: Compressed, lr: float, seed: int) -> Path:
    """The student's shape with fresh weights, on the tokens the student saw, in the same batches."""
    config = Checkpoint(compressed.student).config
    learning = replace(recipe.learning, lr=lr).training(compressed.text.training.row_length, seed)
    made_from = {"shape": repr(config), "seed": str(seed)}
    name = f"twin-lr{lr:g}-seed{seed}"
    return fit(run, name, compressed.text, learning, lambda: Decoder(config).initialise(seed), CrossEntropy, made_from, title=name)


def _entry(recipe: DemoRecipe, run: Run, model: str, lr: float, seed: int, checkpoint: Path, text: Text) -> dict[str, Any]:
    name = f"{model}-lr{lr:g}-seed{seed}"
    return {
        "model": model,
        "lr": lr,
        "seed": seed,
        "folder": f"{checkpoint.name}-training",
        "loss": quality(run, name, checkpoint, text, recipe.learning.dtype)["loss"],
    }


RULE = (
    "The student beats the twin when the mean validation loss of its seeds is lower by more than the larger of the two spreads "
    "(highest minus lowest loss over the seeds); the twin's learning rate is the best of those tried."
)


def judge(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The verdict from the records of all runs: `judge(runs)["holds"]`."""
    student = [entry["loss"] for entry in runs if entry["model"] == "student"]
    twins = [entry for entry in runs if entry["model"] == "twin"]
    best = min(twins, key=lambda entry: entry["loss"])
    chosen = min((entry for entry in twins if entry["seed"] == twins[0]["seed"]), key=lambda entry: entry["loss"])
    twin = [entry["loss"] for entry in twins if entry["lr"] == chosen["lr"]]
    gap, spread = mean(twin) - mean(student), max(max(losses) - min(losses) for losses in (student, twin))
    holds = gap > spread
    outcome = "beats" if holds else "does not beat"
    return {
        "holds": holds,
        "gap": gap,
        "spread": spread,
        "student": mean(student),
        "twin": mean(twin),
        "twin_lr": chosen["lr"],
        "twin_folder": chosen["folder"],
        "best_twin": best["loss"],
        "rule": RULE,
        "sentence": (
            f"The distilled student {outcome} its twin trained from scratch: loss {mean(student):.3f} against {mean(twin):.3f} over "
            f"{len(student)} seeds, a gap of {gap:.3f} where seeds differ by {spread:.3f}."
        ),
    }


def _rows(recipe: DemoRecipe, run: Run, parent: Trained, compressed: Compressed, twin: Path) -> dict[str, dict[str, Any]]:
    """The compression's rows and the twin's; speeds of all four are taken here, one after the other."""
    dtype = recipe.learning.dtype
    rows = compressed.rows | {"twin": quality(run, "twin", twin, compressed.text, dtype, teacher=parent.checkpoint)}
    places = {"parent": parent.checkpoint, "pruned": run.path("compress") / "pruned", "student": compressed.student, "twin": twin}
    timing = recipe.compression(parent.checkpoint).timing
    return {name: rows[name] | speed(run, name, place, timing) for name, place in places.items()}


def _samples(recipe: DemoRecipe, run: Run, parent: Trained, compressed: Compressed) -> dict[str, dict[str, str]]:
    """A few lines of parent and student from the same prompts and seeds."""

    def make() -> dict[str, dict[str, str]]:
        tokenizer = Tokenizer.load(parent.checkpoint)
        prompts = [tokenizer.encode(prompt) for prompt in recipe.prompts]
        settings = Settings(max_tokens=48, stop=(tokenizer.eos_id,), sampling=Sampling(temperature=0.6, top_p=0.9, seed=0))
        texts: dict[str, dict[str, str]] = {prompt: {} for prompt in recipe.prompts}
        for name, checkpoint in (("parent", parent.checkpoint), ("student", compressed.student)):
            for prompt, result in zip(recipe.prompts, generate(load(checkpoint), prompts, settings), strict=True):
                texts[prompt][name] = prompt + tokenizer.decode(result.tokens)
        return texts

    made_from = {name: fingerprint(path) for name, path in (("parent", parent.checkpoint), ("student", compressed.student))}
    return run.result("samples", made_from, make)


def _next(directory: Path, student: Path) -> list[str]:
    parent = directory / "parent" / "model"
    return [
        shlex.join(["amaru", "generate", str(student), "--prompt", "def main("]),
        shlex.join(["amaru", "show", str(student)]),
        shlex.join(["amaru", "compress", str(parent), "--data", PYTHON, "--params", "50%", "--out", "runs/half"]),
    ]
