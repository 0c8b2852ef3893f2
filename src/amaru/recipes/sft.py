"""Supervised fine-tuning on conversations: `amaru sft`. One stage after another, each with a share of the one before replayed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from amaru.config import Config, fingerprint_bytes, to_dict
from amaru.data.chat import Template
from amaru.data.chat_packing import ChatRows, TooLong, made_from, pack
from amaru.data.conversations import Conversation, read, sample
from amaru.data.templates import BUILT_IN, for_others, template_of
from amaru.data.tokenizer import Tokenizer
from amaru.errors import ConfigError, DataError
from amaru.models.checkpoint import Checkpoint, fingerprint, load
from amaru.models.decoder import Decoder
from amaru.models.vocabulary import grown
from amaru.recipes.compare import quality
from amaru.recipes.fit import fit
from amaru.recipes.learning import Learning
from amaru.recipes.run import Progress, Run
from amaru.recipes.text import Text, tokenizer_of
from amaru.train.objective import CrossEntropy
from amaru.train.settings import TrainConfig

EXAMPLES, SHOWN = 3, 1200  # of each stage, and characters of each
LEARNED, END = "⟦", "⟧"  # around what the model learns to say, in examples
LEARNING = Learning(lr=1e-5, warmup_share=0.03, final_lr_share=0.1)


class Stage(Config):
    """`Stage(data=("general.jsonl",), replay=0.02, epochs=3)`.

    data     conversations in .jsonl or .parquet: paths, directories or globs
    replay   so large a share of the conversations of the stage before is mixed in (Nemotron-4: 0.02)
    epochs   how often each conversation is seen
    lr       the peak, where it is not that of the recipe
    """

    data: tuple[str, ...] = Field(min_length=1)
    name: str | None = None
    replay: float = Field(default=0.0, ge=0, le=1)
    epochs: float = Field(default=1.0, gt=0)
    lr: float | None = Field(default=None, gt=0)


class SFTRecipe(Config):
    """`SFTRecipe(start="runs/stories/model", stages=(Stage(data=("chats.jsonl",)),), template="chatml")`.

    start               the checkpoint that is trained, with its tokenizer
    template            chatml, nemotron4, plain, or a file with a jinja template; None takes the tokenizer's own
    add_special_tokens  control tokens that the template writes and the tokenizer lacks are added, with rows of the model for them
    row_length          tokens a row; conversations are never cut across rows
    too_long            a conversation longer than a row: drop it, or cut its last turns
    only_last           learn the last answer of a conversation only
    validation_share    share of conversations kept for validation
    learning            as for training, but that epochs decide how long
    """

    start: str
    stages: tuple[Stage, ...] = Field(min_length=1)
    template: str | None = None
    add_special_tokens: bool = False
    row_length: int = Field(default=2048, ge=2)
    too_long: TooLong = "drop"
    only_last: bool = False
    validation_share: float = Field(default=0.05, gt=0, lt=1)
    learning: Learning = LEARNING
    seed: int = Field(default=0, ge=0)

    def check(self) -> None:
        if self.stages[0].replay:
            raise ConfigError("The first stage has no stage before it to replay; leave its replay out.")
        if self.learning.tokens != Learning().tokens:
            raise ConfigError("In fine-tuning epochs decide how long it takes; leave learning.tokens out and set epochs of a stage.")


@dataclass(frozen=True)
class Part:
    """One stage with its conversations: for training (those replayed among them) and for validation; `model` is its file."""

    name: str
    model: str
    stage: Stage
    summary: str
    training: list[Conversation]
    validation: list[Conversation]


def fine_tune(recipe: SFTRecipe, run: Run) -> dict[str, Any]:
    """Every stage in turn; returns the last checkpoint and the losses of all models on the validation rows of all stages."""
    template = resolved_template(recipe)
    tokenizer = chat_tokenizer(recipe, template)
    found = parts(recipe)
    texts = {part.name: taught(part, template, tokenizer, recipe, run) for part in found}
    models, begins = {"start": Path(recipe.start)}, Path(recipe.start)
    for part in found:
        begins = models[part.name] = _stage(recipe, run, part, texts[part.name], begins)
    rows = _compared(run, models, texts, recipe)
    stages = [{"name": part.name, "model": part.model, "summary": part.summary} for part in found]
    run.write("comparison.json", {"stages": stages, "rows": rows})
    return {"checkpoint": str(begins), "rows": rows}


def taught(part: Part, template: Template, tokenizer: Tokenizer, recipe: SFTRecipe, run: Run) -> Text:
    """A stage's conversations as rows, kept; the first are shown with what is learned of them."""
    run.progress.note(f"  {part.name}: {part.summary}")
    training, validation = (
        _rows(run, f"{part.name}-{side}", some, template, recipe)
        for side, some in (("training", part.training), ("validation", part.validation))
    )
    shown = examples(training, tokenizer)
    run.write(f"{part.name}-examples.json", shown)
    show(shown, run.progress)
    return Text(tokenizer, {part.name: training}, validation)


def parts(recipe: SFTRecipe) -> list[Part]:
    """What each stage learns from; raises `DataError` for data without two conversations, and a share that replays none."""
    found: list[Part] = []
    for number, stage in enumerate(recipe.stages, start=1):
        told = read(stage.data)
        training, validation = divide(told.found, recipe.validation_share, recipe.seed)
        name, summary = stage.name or f"stage-{number}", str(told)
        if stage.replay:
            again = sample(found[-1].training, stage.replay, recipe.seed)
            if not again:
                share, count = stage.replay, len(found[-1].training)
                raise DataError(f"A replay of {share:.1%} of the {count} conversations of {found[-1].name} is none; give a larger share.")
            training, summary = [*training, *again], f"{summary}; {len(again):,} of {found[-1].name} replayed"
        model = "model" if number == len(recipe.stages) else f"{name}-model"
        found.append(Part(name, model, stage, summary, training, validation))
    if len({part.name for part in found}) < len(found):
        raise ConfigError("Two stages have one name; names of stages are names of files.")
    return found


def divide(some: Sequence[Conversation], share: float, seed: int) -> tuple[list[Conversation], list[Conversation]]:
    """Conversations for training and for validation, by a hash of what they say; at least one on each side."""
    if len(some) < 2:
        raise DataError(f"There must be at least two conversations, one of them for validation; got {len(some)}.")
    by_hash = sorted(some, key=lambda each: fingerprint_bytes(f"validation {seed}", each.identity))
    count = min(max(1, round(share * len(some))), len(some) - 1)
    late = {each.identity for each in by_hash[:count]}
    return [each for each in some if each.identity not in late], [each for each in some if each.identity in late]


def resolved_template(recipe: SFTRecipe) -> Template:
    """The template of the recipe, over a tokenizer that knows its control tokens if the recipe says so."""
    template = template_of(recipe.template, tokenizer_of(recipe.start))
    if template.unknown and recipe.add_special_tokens:
        return Template(template.source, template.tokenizer.with_special(template.unknown))
    return template


def chat_tokenizer(recipe: SFTRecipe, template: Template) -> Tokenizer:
    """The tokenizer that the trained model gets: with the template, and with what ends an answer as end of text."""
    source = for_others(template.source) if recipe.template in BUILT_IN else template.source
    return template.tokenizer.with_chat(source, template.ending())


def examples(rows: ChatRows, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """The first conversations, and what of them is learned, marked."""
    shown = []
    for number in range(min(EXAMPLES, len(rows.sources))):
        ids, learned = rows.conversation(number)
        borders = [0, *(index for index in range(1, len(ids)) if learned[index] != learned[index - 1]), len(ids)]
        text = ""
        for first, end in pairwise(borders):
            piece = tokenizer.decode(ids[first:end].tolist())
            text += f"{LEARNED}{piece}{END}" if learned[first] else piece
        shown.append({"source": rows.sources[number], "tokens": len(ids), "learned": int(learned.sum()), "text": text})
    return shown


def show(some: list[dict[str, Any]], progress: Progress) -> None:
    for number, each in enumerate(some, start=1):
        more = f"\n    ... {len(each['text']) - SHOWN:,} more characters" if len(each["text"]) > SHOWN else ""
        text = each["text"][:SHOWN].replace("\n", "\n    ")
        learned = f"{each['learned']:,} of {each['tokens']:,} tokens are learned, in {LEARNED}{END}"
        progress.note(f"  example {number} ({each['source']}; {learned}):\n    {text}{more}")


def settings(recipe: SFTRecipe, stage: Stage, rows: int) -> TrainConfig:
    """The loop's settings of a stage: epochs over its rows, in whole steps."""
    a_step = recipe.learning.rows(recipe.row_length)
    steps = max(1, -(-round(stage.epochs * rows) // a_step))
    learning = replace(recipe.learning, tokens=steps * a_step * recipe.row_length, lr=stage.lr or recipe.learning.lr)
    return learning.training(recipe.row_length, recipe.seed)


def forecast(recipe: SFTRecipe, directory: Path) -> dict[str, Any]:
    """What the run would do: conversations, rows and steps of every stage, and examples with what is learned marked."""
    template = resolved_template(recipe)
    tokenizer, stages = chat_tokenizer(recipe, template), []
    for part in parts(recipe):
        rows = pack(part.training, template, recipe.row_length, too_long=recipe.too_long, only_last=recipe.only_last)
        steps = settings(recipe, part.stage, len(rows)).steps
        stages.append({"name": part.name, "data": part.summary, "rows": str(rows), "steps": steps, "examples": examples(rows, tokenizer)})
    return {"out": str(directory), "end_of_turn": tokenizer.decode([tokenizer.eos_id]), "stages": stages, "recipe": to_dict(recipe)}


def _rows(run: Run, name: str, some: list[Conversation], template: Template, recipe: SFTRecipe) -> ChatRows:
    origin = made_from(some, template, recipe.row_length, recipe.too_long, recipe.only_last)

    def make(path: Path) -> None:
        pack(some, template, recipe.row_length, too_long=recipe.too_long, only_last=recipe.only_last).save(path)

    return run.keep(f"{name}.rows", origin, make, lambda path: ChatRows.load(path, origin), title=name, describe=str)


def _stage(recipe: SFTRecipe, run: Run, part: Part, text: Text, begins: Path) -> Path:
    config = settings(recipe, part.stage, len(text.training))
    origin = {"start": fingerprint(begins), "tokenizer": text.tokenizer.fingerprint}
    return fit(run, part.model, text, config, lambda: _begin(begins, text.tokenizer, run), CrossEntropy, origin, title=part.name)


def _begin(checkpoint: Path, tokenizer: Tokenizer, run: Run) -> Decoder:
    decoder = load(checkpoint, torch.float32)
    more = tokenizer.vocab_size - decoder.config.vocab
    if more <= 0:
        return decoder
    run.progress.note(f"  {more} new tokens get rows in embedding and head, each the mean of the others")
    return grown(decoder, tokenizer.vocab_size)


def _compared(run: Run, models: dict[str, Path], texts: dict[str, Text], recipe: SFTRecipe) -> dict[str, dict[str, Any]]:
    """Loss and accuracy of every model on the validation answers of every stage: what was learned, and what was forgotten.

    The start is left out where it has no rows for tokens of the template.
    """
    rows: dict[str, dict[str, Any]] = {}
    for model, path in models.items():
        if Checkpoint(path).config.vocab < next(iter(texts.values())).tokenizer.vocab_size:
            continue
        for name, text in texts.items():
            found = quality(run, f"{model}-{name}", path, text, recipe.learning.dtype)
            rows.setdefault(model, {})[name] = {"loss": found["loss"], "accuracy": found["accuracy"]}
    return rows
