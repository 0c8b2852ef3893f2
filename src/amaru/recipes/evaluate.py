"""Tasks put to a model, and to a second one beside it, from names to facts that can be printed, kept and drawn."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from amaru.config import Config
from amaru.errors import ConfigError
from amaru.eval.files import open_task, records
from amaru.eval.judged.conversations import ConversationTask, Judge, open_conversations
from amaru.eval.judged.pairwise import VALUES, duel
from amaru.eval.long_context.grid import ProbeTask
from amaru.eval.long_context.probes import PROBES
from amaru.eval.recall import SEQUENCES, RecallTask
from amaru.eval.store import Store
from amaru.eval.subject import Subject, chat_of
from amaru.eval.task import Result, Task, compare, measure, perplexity
from amaru.models.checkpoint import Checkpoint, fingerprint, load
from amaru.recipes.run import Progress, Run
from amaru.recipes.text import tokenizer_of

Follow = Callable[[str], object]


class TasksRecipe(Config):
    """`TasksRecipe(tasks=("arc_easy.jsonl", "passkey"))`: what is asked, and how.

    tasks      paths of task files, `PATH:LAYOUT` where fields do not tell the layout, and names of what is made here:
               passkey, needles, key-value, variables, common-words, recall, copy
    few_shot   solved items before each item of a file, the first of `examples` or else of the file itself
    limit      only the first so many items of each file
    lengths    tokens of what is made here; `depths` places from beginning to end, `samples` prompts for each
    chat       generated answers are asked for by the model's chat template
    references good answers for conversations, in a file of their own
    pairwise   the judge also sees the conversations of both models side by side
    memory     bytes for states and caches while answers are generated
    cache      where judged items are kept, so that none is asked twice; None keeps nothing
    """

    tasks: tuple[str, ...] = Field(min_length=1)
    few_shot: int = Field(default=0, ge=0)
    examples: str | None = None
    limit: int | None = Field(default=None, gt=0)
    lengths: tuple[int, ...] = Field(default=(1024, 4096), min_length=1)
    depths: int = Field(default=5, gt=0)
    samples: int = Field(default=5, gt=0)
    chat: bool = False
    references: str | None = None
    pairwise: bool = False
    memory: int = Field(default=2 * 2**30, gt=0)
    cache: str | None = "runs/evaluations.sqlite"


class TextMeasured(Config):
    """What `amaru eval --data` was told, for the record of its run directory."""

    data: tuple[str, ...]
    row_length: int
    stride: int | None = None


def tasks_of(recipe: TasksRecipe, judge: Judge | None = None) -> list[Task]:
    """What the names mean; raises `ConfigError` or `DataError` for one that means nothing, or needs a judge that is not there."""
    return [_task(name, recipe, judge) for name in recipe.tasks]


def _task(name: str, recipe: TasksRecipe, judge: Judge | None) -> Task:
    if name in PROBES:
        depths = tuple(place / max(1, recipe.depths - 1) for place in range(recipe.depths))
        return ProbeTask(name, recipe.lengths, depths, recipe.samples)
    if name in SEQUENCES:
        return RecallTask(name, recipe.lengths, recipe.samples)
    path, colon, layout = name.rpartition(":")
    path, layout = (path, layout) if colon and not Path(name).exists() else (name, "")
    if not Path(path).exists():
        raise ConfigError(f"There is no task file {path}, and no task of that name; made here are: {', '.join([*PROBES, *SEQUENCES])}.")
    if "turns" in next(iter(records(Path(path))))[1]:
        if judge is None:
            raise ConfigError(f"{path} holds conversations, which another model judges; give --judge URL and --judge-model NAME.")
        return open_conversations(path, judge, recipe.references)
    return open_task(path, layout or None, recipe.few_shot, recipe.examples)


def run_tasks(
    recipe: TasksRecipe, checkpoint: Path, against: Path | None, follow: Follow = lambda text: None, judge: Judge | None = None
) -> dict[str, Any]:
    """Facts of each task for `checkpoint` and, item by item beside it, `against`; `follow(text)` says how far it is."""
    tasks, store = tasks_of(recipe, judge), Store(recipe.cache) if recipe.cache else None
    results = {path: _results(recipe, path, tasks, store, follow) for path in [checkpoint, *([against] if against else [])]}
    rows = []
    for number, result in enumerate(results[checkpoint]):
        row = {"task": result.task, **facts(result)}
        if against:
            other = results[against][number]
            differences = {metric: found._asdict() for metric, found in compare(other, result).items()}
            row |= {"against": facts(other), "difference": differences, **_side_by_side(recipe, tasks[number], result, other)}
        rows.append(row)
    notes = [note for path in results if (note := _beyond(path, tasks))]
    return {"checkpoint": str(checkpoint), **({"against": str(against)} if against else {}), "tasks": rows, "notes": notes}


def _side_by_side(recipe: TasksRecipe, task: Task, ours: Result, theirs: Result) -> dict[str, Any]:
    """How often the judge prefers ours, where it is asked."""
    if not recipe.pairwise or not isinstance(task, ConversationTask):
        return {}
    found = duel(task, ours, theirs)
    counts = {name: list(found.outcomes.values()).count(name) for name in VALUES}
    return {"duel": {**counts, "turned": found.turned, "won": found.won._asdict(), "p": found.p}}


def _beyond(checkpoint: Path, tasks: list[Task]) -> str | None:
    """A sentence where lengths are beyond those that a model was trained with."""
    longest = max((max(task.lengths) for task in tasks if isinstance(task, ProbeTask | RecallTask)), default=0)
    trained = Checkpoint(checkpoint).config.max_positions
    return f"{checkpoint} was trained with {trained:,} tokens; lengths up to {longest:,} are beyond." if longest > trained else None


def _results(recipe: TasksRecipe, checkpoint: Path, tasks: list[Task], store: Store | None, follow: Follow) -> list[Result]:
    subject = subject_of(checkpoint, chat=recipe.chat, memory=recipe.memory)
    for task in tasks:
        if isinstance(task, RecallTask):
            task.require(subject.tokenizer)
    return [
        measure(
            task,
            subject,
            store,
            recipe.limit if not isinstance(task, ProbeTask | RecallTask) else None,
            lambda done, count, task=task: follow(f"{checkpoint.name}, {task.name}: {done} of {count} items"),
        )
        for task in tasks
    ]


def keep(out: Path, recipe: Config, progress: Progress, found: dict[str, Any]) -> None:
    """A run directory that `amaru report` knows: what was found, with command, versions and machine."""
    with Run(out, "eval", recipe, progress) as run:
        run.write("evaluation.json", found)


def subject_of(checkpoint: Path, *, chat: bool = False, memory: int = 2 * 2**30) -> Subject:
    """A checkpoint as tasks see it; raises `ConfigError` when a template is asked for that it does not bring."""
    tokenizer = tokenizer_of(checkpoint)
    return Subject(load(checkpoint), tokenizer, fingerprint(checkpoint), chat_of(tokenizer) if chat else None, memory)


def facts(result: Result) -> dict[str, Any]:
    """Plain values of a result: each metric's mean with its interval, and the cells of a grid."""
    metrics: dict[str, Mapping[str, float]] = {name: found._asdict() for name, found in result.estimates.items()}
    if "nats" in metrics:
        metrics["perplexity"] = {name: perplexity(metrics["nats"][name]) for name in ("mean", "low", "high")}
    cells = {name: found._asdict() for name, found in result.cells.items()}
    grid = {"leads": result.metrics[0], "cells": cells} if cells else {}
    return {"items": len(result.items), "kept": result.kept, "metrics": metrics, **grid}
