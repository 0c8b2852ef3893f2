"""Few numbers trained on conversations, and the model left as it is: `amaru adapt`; or all of them, to compare."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from amaru.adapters import LoRA, Method, TiedLoRA, adapt, chosen, coverage, describe, files, fold, peft_files
from amaru.config import Config, fingerprint_file, to_dict
from amaru.config.records import read_lines
from amaru.data.chat_packing import TooLong, pack
from amaru.data.conversations import read
from amaru.data.loader import Loader, in_order
from amaru.data.packing import Rows
from amaru.errors import ConfigError
from amaru.eval.answers import answers
from amaru.models import cost
from amaru.models.checkpoint import Checkpoint, fingerprint, load, save
from amaru.models.decoder import Decoder, DecoderConfig
from amaru.recipes import sft
from amaru.recipes.bench.memory import taken
from amaru.recipes.fit import fit
from amaru.recipes.learning import Learning
from amaru.recipes.run import Run
from amaru.recipes.team import One
from amaru.recipes.text import Text
from amaru.train.balance import Balance
from amaru.train.checkpoint import Checkpoints
from amaru.train.loop import COMPUTE_DTYPES
from amaru.train.metrics import Past
from amaru.train.objective import CrossEntropy
from amaru.train.optim import adamw
from amaru.train.settings import TrainConfig
from amaru.train.step import Stepper

BATCH_ROWS = 8  # of conversations that are scored at once
NAME = "data"  # of the only stage
MEASURED = 4  # steps, when costs are compared


class AdaptRecipe(Config):
    """`AdaptRecipe(start="runs/stories/model", data=("chats.jsonl",), lora=LoRA(rank=16), template="chatml")`.

    start             the checkpoint, with its tokenizer; its weights may be codes
    data              conversations, or prompts and completions, in .jsonl or .parquet: paths, directories or globs
    held_out          others that are only scored; none: `validation_share` of the data is
    lora, tied_lora   what is trained, one of them; neither: every weight
    template          as for fine-tuning; plain: texts as they are, where the model has no rows for the marks of chat
    epochs            how often each conversation is seen
    learning          as for training, but that epochs decide how long
    """

    start: str
    data: tuple[str, ...] = Field(min_length=1)
    held_out: tuple[str, ...] = ()
    lora: LoRA | None = None
    tied_lora: TiedLoRA | None = None
    template: str | None = None
    row_length: int = Field(default=2048, ge=2)
    too_long: TooLong = "drop"
    only_last: bool = False
    validation_share: float = Field(default=0.05, gt=0, lt=1)
    epochs: float = Field(default=1.0, gt=0)
    learning: Learning = Learning(lr=3e-4, weight_decay=0.0, warmup_share=0.03, final_lr_share=0.1, expert_balance=0.0)
    seed: int = Field(default=0, ge=0)

    def check(self) -> None:
        if self.lora is not None and self.tied_lora is not None:
            raise ConfigError("One method is trained at a time; give lora or tied_lora.")
        if self.method is not None and self.learning.expert_balance:
            raise ConfigError("expert_balance moves biases of the base, which an adapter leaves alone; leave it at 0.")
        self.teaching()

    @property
    def method(self) -> Method | None:
        """None: every weight is trained."""
        return self.lora or self.tied_lora

    @property
    def called(self) -> str:
        return "full fine-tuning" if self.method is None else self.method.called

    def teaching(self) -> sft.SFTRecipe:
        """The same as one stage of fine-tuning."""
        names = ("start", "template", "row_length", "too_long", "only_last", "validation_share", "learning", "seed")
        stage = sft.Stage(data=self.data, name=NAME, epochs=self.epochs)
        return sft.SFTRecipe(stages=(stage,), **{name: getattr(self, name) for name in names})


class Adapting(One):
    """Trains what was put on a model; nothing else is saved, on the way and at the end."""

    def model(self, start: Callable[[], Decoder], config: TrainConfig) -> Decoder:
        return start()

    def options(self, config: TrainConfig) -> dict[str, Any]:
        def store(directory: Path, made_from: dict[str, str]) -> Checkpoints:
            kept, background = config.checkpoint_keep, config.checkpoint_in_background
            return Checkpoints(directory, made_from, keep=kept, in_background=background, part=lambda model: model.adapters)  # type: ignore[arg-type,return-value]

        return {"store": store}

    def save(self, decoder: Decoder, step: int, checkpoints: Path, path: Path, tokenizer: object) -> None:
        files.save(decoder, path)


def adapt_model(recipe: AdaptRecipe, run: Run, *, measure: bool = False) -> dict[str, Any]:
    """Train on the conversations; returns where the result is, what was reached, and how model and result answer those held out.

    `measure` also compares memory and speed with full fine-tuning.
    """
    config = Checkpoint(recipe.start).config
    run.progress.note(reached(recipe, config))
    text = text_of(recipe, run)
    result = learned(recipe, run, text)
    steps = read_lines(run.path(f"{result.name}-training") / "metrics.jsonl")
    told = {
        "method": recipe.called,
        "result": str(result),
        "trained": trained_count(recipe, config),
        "parameters": cost.parameters(config),
        "coverage": [row._asdict() for row in coverage(config, _sites(recipe, config))] if recipe.method else [],
        "tokens_per_second": sum(step["tokens"] for step in steps) / max(1e-9, sum(step["seconds"] for step in steps)),
        "before": scored(recipe, run, "before", text, None),
        "after": scored(recipe, run, "after", text, result),
    }
    if measure:
        told["cost"] = cost_beside_full(recipe, run, text)
    run.write("comparison.json", told)
    return told


def text_of(recipe: AdaptRecipe, run: Run, name: str = NAME) -> Text:
    """The conversations as rows, kept under this name and shown."""
    teaching = recipe.teaching()
    template = sft.resolved_template(teaching)
    return sft.taught(replace(conversations(recipe), name=name), template, sft.chat_tokenizer(teaching, template), teaching, run)


def learned(recipe: AdaptRecipe, run: Run, text: Text) -> Path:
    """The adapter, or the model, that was trained on these rows; kept."""
    teaching = recipe.teaching()
    training = sft.settings(teaching, teaching.stages[0], len(text.training))
    if recipe.method is not None:
        run.team = Adapting()
    name, origin = "model" if recipe.method is None else "adapter", _origin(recipe) | {"tokenizer": text.tokenizer.fingerprint}
    return fit(run, name, text, training, lambda: _begin(recipe), CrossEntropy, origin, title=recipe.called)


def scored(recipe: AdaptRecipe, run: Run, name: str, text: Text, result: Path | None) -> dict[str, Any]:
    """How the result answers what was held out, kept as `answers-NAME.json`; without one, the model as it was."""

    def make() -> dict[str, Any]:
        decoder = _with(recipe, result).to(run.device)
        decoder.compute_dtype = COMPUTE_DTYPES[recipe.learning.dtype]
        return to_dict(answers(decoder, in_order(text.validation, BATCH_ROWS)))

    origin = _origin(recipe) | {"text": text.validation.fingerprint, "result": _identity(result)}
    return run.result(f"answers-{name}", origin, make, title=f"answers {name}")


def conversations(recipe: AdaptRecipe) -> sft.Part:
    """What is learned and what is held out; conversations that are held out are not learned, and their number is told."""
    (part,) = sft.parts(recipe.teaching())
    if not recipe.held_out:
        return part
    told = read(recipe.held_out)
    asked = {each.identity for each in told.found}
    everything = [*part.training, *part.validation]
    training = [each for each in everything if each.identity not in asked]
    if not training:
        raise ConfigError("Everything that is to be learned is held out; give other conversations with --data or with --held-out.")
    both = len(everything) - len(training)
    summary = f"{part.summary}; held out: {told}" + f"; {both:,} of these were to be learned too, and are not" * bool(both)
    return replace(part, training=training, validation=list(told.found), summary=summary)


def reached(recipe: AdaptRecipe, config: DecoderConfig) -> str:
    """What is trained, in a table by kind of layer; raises `ConfigError` for targets that mean nothing."""
    whole, count = cost.parameters(config), trained_count(recipe, config)
    said = f"  {recipe.called}: {count:,} numbers are trained beside {whole:,} of the model ({count / whole:.2%})"
    if recipe.method is None:
        return f"  {recipe.called}: all {whole:,} numbers are trained"
    table = describe(coverage(config, _sites(recipe, config))).replace("\n", "\n  ")
    return f"{said}\n  {table}"


def trained_count(recipe: AdaptRecipe, config: DecoderConfig) -> int:
    return cost.parameters(config) if recipe.method is None else recipe.method.trained_count(config)


def forecast(recipe: AdaptRecipe, directory: Path) -> dict[str, Any]:
    """What the run would do: the coverage, conversations, rows and steps, and examples with what is learned marked."""
    config, teaching = Checkpoint(recipe.start).config, recipe.teaching()
    template, part = sft.resolved_template(teaching), conversations(recipe)
    rows = pack(part.training, template, recipe.row_length, too_long=recipe.too_long, only_last=recipe.only_last)
    return {
        "out": str(directory),
        "trained": trained_count(recipe, config),
        "coverage": reached(recipe, config),
        "data": part.summary,
        "rows": str(rows),
        "steps": sft.settings(teaching, teaching.stages[0], len(rows)).steps,
        "examples": sft.examples(rows, sft.chat_tokenizer(teaching, template)),
        "recipe": to_dict(recipe),
    }


def merged(recipe: AdaptRecipe, run: Run) -> dict[str, Any]:
    """The adapter made part of the weights, in `merged`: a checkpoint like any other; `difference` is what storing in fp32 cost."""
    decoder, teaching = _with(recipe, run.path("adapter")), recipe.teaching()
    tokenizer = sft.chat_tokenizer(teaching, sft.resolved_template(teaching))
    difference = max(each.difference for each in fold(decoder))
    save(decoder, run.path("merged"), tokenizer)
    run.progress.note(f"  merged: {run.path('merged')}; rounding to fp32 changed weights by {difference:.1e} of the largest")
    return {"merged": str(run.path("merged")), "difference": difference}


def in_peft_format(recipe: AdaptRecipe, run: Run) -> dict[str, Any]:
    """The adapter as `peft` reads it, in `peft`."""
    peft_files.write(_with(recipe, run.path("adapter")), run.path("peft"), "adapter", base_model=recipe.start)
    return {"peft": str(run.path("peft"))}


def cost_beside_full(recipe: AdaptRecipe, run: Run, text: Text) -> dict[str, dict[str, float]]:
    """Memory and speed of the recipe's steps and of those that train every weight, each in a process of its own; kept as `cost.json`.
    Codes are not trained, so that over them there is nothing beside.

    bytes              the most that the steps took beside the model itself: gradients, optimizer and what is kept for the backward pass
    tokens_per_second  of the fastest of a few steps, all tokens counted
    """

    def make() -> dict[str, dict[str, float]]:
        found = {}
        full = {} if Checkpoint(recipe.start).encodings else {"full fine-tuning": replace(recipe, lora=None, tied_lora=None)}
        for name, asked in ({recipe.called: recipe} | full).items():
            run.progress.update(f"measuring {name}")
            took = taken(name, _steps, asked, text.training)
            found[name] = {"model": took.before, "bytes": took.above, "tokens_per_second": took.result}
        return found

    return run.result("cost", _origin(recipe) | {"text": text.fingerprint, "threads": str(torch.get_num_threads())}, make, title="cost")


def _steps(recipe: AdaptRecipe, rows: Rows) -> Callable[[], float]:
    """A few steps of the training loop's own, the fastest of which counts; the first, in which the optimizer begins, does not."""
    teaching, decoder = recipe.teaching(), _begin(recipe)
    config = sft.settings(teaching, teaching.stages[0], len(rows))
    decoder.compute_dtype = COMPUTE_DTYPES[config.dtype]
    loader = Loader(rows, config.batch_rows, config.seed)
    optimizer = adamw(decoder, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay)
    stepper = Stepper(decoder, CrossEntropy(), loader, config, optimizer, Balance(decoder, 0.0))

    def work() -> float:
        seconds = {step: stepper.step(step, Past(config.guard.window)).seconds for step in range(MEASURED)}
        return max(len(loader.batch(step).ids) / seconds[step] for step in range(1, MEASURED))

    return work


def _sites(recipe: AdaptRecipe, config: DecoderConfig) -> list:
    assert recipe.method is not None, "asked of adapters only"
    return chosen(config, recipe.method.targets, recipe.method.layers)


def _begin(recipe: AdaptRecipe) -> Decoder:
    decoder = load(recipe.start, torch.float32)
    decoder.recompute_every = recipe.learning.recompute_every
    if recipe.method is not None:
        adapt(decoder, recipe.method)
    return decoder


def _with(recipe: AdaptRecipe, result: Path | None) -> Decoder:
    """The model as it was, or with what was learned."""
    if result is not None and recipe.method is None:
        return load(result, torch.float32)
    decoder = load(recipe.start, torch.float32)
    if result is not None:
        files.load(decoder, result)
    return decoder


def _origin(recipe: AdaptRecipe) -> dict[str, str]:
    return {"start": fingerprint(recipe.start), "method": repr(recipe.method)}


def _identity(result: Path | None) -> str:
    if result is None:
        return ""
    return fingerprint_file(result / files.TENSORS) if (result / files.TENSORS).exists() else fingerprint(result)
