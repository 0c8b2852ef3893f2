"""A reward model trained on rated or compared answers: `amaru reward train`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from amaru.align.comparisons import Comparison, Comparisons, Dropped, write_dropped
from amaru.align.reading import read
from amaru.align.reward.labels import check_labels
from amaru.align.reward.objectives import BradleyTerry, Regression, gaps_of, predicted, squared_errors
from amaru.align.reward.rows import RewardLoader, RewardRows, compared, made_from, rated
from amaru.config import fingerprint_bytes, to_dict
from amaru.data.tokenizer import Tokenizer
from amaru.errors import DataError
from amaru.models.checkpoint import fingerprint
from amaru.models.decoder import Decoder
from amaru.models.reward import checkpoint
from amaru.models.reward.checkpoint import Said, is_reward
from amaru.models.reward.head import NAME, give_head
from amaru.models.reward.prompts import Prompts
from amaru.models.reward.scorer import TOKENS
from amaru.models.vocabulary import grown
from amaru.recipes.fit import fit
from amaru.recipes.reward.recipe import RewardRecipe, prompts_of, said_by
from amaru.recipes.run import Run
from amaru.recipes.team import One
from amaru.recipes.text import Text
from amaru.train.loop import COMPUTE_DTYPES

ROUNDING = 1e-3  # of a squared error; an attribute that is always the same is told so well
VALIDATED_TOKENS = 2**18  # while training; the final figures use all rows


@dataclass(frozen=True)
class Lesson:
    """What a run learns from: the comparisons of each side, how they are put, and what the head will tell of them."""

    found: Comparisons
    training: list[Comparison]
    validation: list[Comparison]
    said: Said
    prompts: Prompts
    labels: str

    def rows(self, some: list[Comparison], recipe: RewardRecipe) -> tuple[RewardRows, tuple[Dropped, ...]]:
        names = self.said.attributes.names
        return compared(some, self.prompts, recipe.longest) if recipe.pairs else rated(some, self.prompts, names, recipe.longest)


class Rewarding(One):
    """Trains a decoder with a head, and saves it as a reward model that says this of itself."""

    def __init__(self, said: Said) -> None:
        self.said = said

    def save(self, decoder: Decoder, step: int, checkpoints: Path, path: Path, tokenizer: object) -> None:
        assert isinstance(tokenizer, Tokenizer)
        checkpoint.save(decoder, path, tokenizer, self.said)


def train_reward(recipe: RewardRecipe, run: Run) -> dict[str, Any]:
    """Train, and measure on what was held out; returns the checkpoint and the figures."""
    lesson = lesson_of(recipe)
    run.progress.note(f"  {lesson.found}\n  {lesson.labels}")
    training, validation = (_rows(run, name, lesson, recipe) for name in ("training", "validation"))
    text = Text(lesson.prompts.tokenizer, {"answers": training}, validation)
    config = recipe.training(len(training), training.row_length)
    run.team = Rewarding(lesson.said)
    objective = BradleyTerry() if recipe.pairs else Regression()
    path = fit(
        run,
        "model",
        text,
        config,
        lambda: begin(recipe, lesson, training),
        lambda: objective,
        {"start": fingerprint(recipe.start), "said": repr(lesson.said), "only_head": str(recipe.only_head)},
        batches=RewardLoader(training, config.batch_rows, config.seed, "answers"),
        validate=lambda model: {"loss": figures(model, validation, training, VALIDATED_TOKENS)["loss"]},
        unit=recipe.unit,
    )
    found = {name: _quality(run, name, where, recipe, lesson, training, validation) for name, where in (("start", None), ("model", path))}
    told = {"checkpoint": str(path), "attributes": to_dict(lesson.said.attributes), "data": str(lesson.found), "labels": lesson.labels}
    told |= {"rows": {"training": str(training), "validation": str(validation)}, "quality": found}
    told["worse_than_mean"] = [] if recipe.pairs else worse_than_mean(lesson.said.attributes.names, found["model"]["attributes"])
    run.write("comparison.json", told)
    return told


def lesson_of(recipe: RewardRecipe) -> Lesson:
    """Read, check and divide. Raises `DataError` and `ConfigError` naming rows, for data that does not teach this reward model."""
    found = read(recipe.data, reward=recipe.better_by, least=2 if recipe.pairs else 1)
    said = said_by(recipe, found.found)
    if recipe.pairs and not any(each.pairs for each in found.found):
        raise DataError("No answer is said to be better than another; rated answers are compared with --better-by helpfulness=1.")
    labels = f"{len(found.found):,} comparisons" if recipe.pairs else check_labels(found.found, said.attributes)
    training, validation = divide(found.found, recipe.validation_share, recipe.seed)
    return Lesson(found, training[: recipe.limit], validation, said, prompts_of(recipe, said), labels)


def divide(some: Sequence[Comparison], share: float, seed: int) -> tuple[list[Comparison], list[Comparison]]:
    """For training and for validation, by a hash of the prompt: answers to one prompt are never on both sides."""
    order = sorted({each.prompt for each in some}, key=lambda prompt: fingerprint_bytes(f"reward {seed}", prompt))
    if len(order) < 2:
        raise DataError(f"There must be at least two prompts, one of them for validation; got {len(order)}.")
    count = min(max(1, round(share * len(order))), len(order) - 1)
    place = {prompt: number for number, prompt in enumerate(order)}
    chosen = sorted(some, key=lambda each: place[each.prompt])
    return [each for each in chosen if place[each.prompt] >= count], [each for each in chosen if place[each.prompt] < count]


def begin(recipe: RewardRecipe, lesson: Lesson, training: RewardRows) -> Decoder:
    """The decoder that training begins with: its head says the mean label of every answer, unless it is a reward model already."""
    if is_reward(recipe.start):
        decoder = checkpoint.load(recipe.start, torch.float32).decoder
    else:
        decoder = checkpoint.trunk(recipe.start)
        if (vocab := lesson.prompts.tokenizer.vocab_size) > decoder.config.vocab:
            decoder = grown(decoder, vocab)
        longest = max(decoder.config.max_positions, training.row_length)
        decoder.config = replace(decoder.config, max_positions=longest)  # the scorer reads as much as was learned from
        give_head(decoder, means(training, len(lesson.said.attributes.names)))
    for name, parameter in decoder.named_parameters():
        parameter.requires_grad_(name.startswith(f"{NAME}.") or not recipe.only_head)
    return decoder


def means(rows: RewardRows, attributes: int) -> list[float]:
    """The mean label of each attribute, 0 where there is none."""
    if rows.pairs:
        return [0.0] * attributes
    given = np.isfinite(rows.labels)
    return (np.where(given, rows.labels, 0).sum(0) / np.maximum(1, given.sum(0))).tolist()


@torch.no_grad()
def figures(model: Decoder, rows: RewardRows, training: RewardRows, tokens: int | None = None) -> dict[str, Any]:
    """The loss and what stands behind it, on rows in order, at most about so many tokens of them.

    Of ratings, for each attribute: the mean squared error, that of saying the training mean always, and the correlation. Of pairs: how
    many are ranked right, and the mean gap.
    """
    found, size = [], 0
    for batch in rows.in_order(TOKENS):
        batch = batch.to(model.embedding.weight.device)
        found.append((predicted(model, batch).double().cpu(), batch.labels.cpu()))
        size += len(batch.ids)
        if tokens is not None and size >= tokens:
            break
    predictions, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
    if rows.pairs:
        gaps = gaps_of(predictions)
        loss = -torch.nn.functional.logsigmoid(gaps).mean().item()
        return {"loss": loss, "pairs": len(gaps), "right": int((gaps > 0).sum()), "gap": gaps.mean().item()}
    errors, given = squared_errors(predictions, labels), labels.isfinite()
    still = squared_errors(torch.tensor(means(training, labels.shape[1])).double().expand_as(labels), labels)
    each = [_attribute(predictions[:, i], labels[:, i], errors[:, i], still[:, i]) for i in range(labels.shape[1])]
    return {"loss": (errors.sum() / given.sum()).item(), "attributes": each}


def worse_than_mean(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Attributes that are told worse than by saying their mean always: what was learned of them does not hold for other answers."""
    return [name for name, row in zip(names, rows, strict=True) if row["labels"] and row["error"] > row["error_of_mean"] + ROUNDING]


def _attribute(predictions: torch.Tensor, labels: torch.Tensor, errors: torch.Tensor, still: torch.Tensor) -> dict[str, Any]:
    given = labels.isfinite()
    count = int(given.sum())
    if not count:
        return {"labels": 0, "error": None, "error_of_mean": None, "correlation": None}
    pair = torch.stack([predictions[given], labels[given]])
    spread = count > 1 and bool((pair.amax(1) > pair.amin(1)).all())
    correlation = torch.corrcoef(pair)[0, 1].item() if spread else None
    return {"labels": count, "error": errors.sum().item() / count, "error_of_mean": still.sum().item() / count, "correlation": correlation}


def forecast(recipe: RewardRecipe, directory: Path) -> dict[str, Any]:
    """What the run would do: the data, what is told of it, rows and steps, and the first conversation as the model will read it."""
    lesson = lesson_of(recipe)
    rows, dropped = lesson.rows(lesson.training, recipe)
    return {
        "out": str(directory),
        "data": str(lesson.found),
        "labels": lesson.labels,
        "rows": str(rows),
        "dropped": len(dropped) + len(lesson.found.dropped),
        "steps": recipe.training(len(rows), rows.row_length).steps,
        "attributes": to_dict(lesson.said.attributes),
        "example": lesson.prompts.tokenizer.decode(rows.row(0).ids.tolist()),
        "recipe": to_dict(recipe),
    }


def _rows(run: Run, name: str, lesson: Lesson, recipe: RewardRecipe) -> RewardRows:
    some = lesson.training if name == "training" else lesson.validation
    origin = made_from(some, lesson.prompts, recipe.longest)
    origin |= {} if recipe.pairs else {"labels": " ".join(lesson.said.attributes.names)}

    def make(path: Path) -> None:
        rows, dropped = lesson.rows(some, recipe)
        rows.save(path)
        write_dropped(run.path(f"{name}-dropped.jsonl"), [*(lesson.found.dropped if name == "training" else ()), *dropped])
        if dropped:
            run.progress.note(f"  {name}: {len(dropped):,} answers are not used; {name}-dropped.jsonl says which and why")

    return run.keep(f"{name}.rows", origin, make, lambda path: RewardRows.load(path, origin), title=name, describe=str)


def _quality(
    run: Run, name: str, path: Path | None, recipe: RewardRecipe, lesson: Lesson, training: RewardRows, validation: RewardRows
) -> dict[str, Any]:
    def make() -> dict[str, Any]:
        decoder = begin(recipe, lesson, training) if path is None else checkpoint.load(path, torch.float32).decoder
        decoder.compute_dtype = COMPUTE_DTYPES[recipe.learning.dtype]
        return figures(decoder.to(run.device), validation, training)

    origin = {"checkpoint": fingerprint(path or recipe.start), "rows": validation.fingerprint, "dtype": recipe.learning.dtype}
    return run.result(f"quality-{name}", origin | {"training": training.fingerprint}, make, title=f"quality, {name}")
