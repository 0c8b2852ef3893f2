"""Tables of a paper, filled by one command: which tasks, how many shots, which score, and what the paper prints.

    run_suite(SuiteRecipe(suite="nemotron-h", files="tasks/"), Path("checkpoint"))["rows"]

A suite is a tuple of `Row`s. Files are looked for by name below one directory; a row whose file is not there, or which a model cannot be
asked, is told in a sentence, and the others are measured.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field

from amaru.config import Config
from amaru.errors import ConfigError
from amaru.eval.files import open_task
from amaru.eval.judged.conversations import Judge, open_conversations
from amaru.eval.store import Store
from amaru.eval.subject import Subject, chat_of
from amaru.eval.task import Task, measure
from amaru.recipes.evaluate import facts, subject_of
from amaru.recipes.nemotron_h_tables import NEMOTRON_H, Row

SUITES: dict[str, tuple[Row, ...]] = {"nemotron-h": NEMOTRON_H}
Follow = Callable[[str], object]


class Ready(NamedTuple):
    """A row whose file is there."""

    row: Row
    path: Path
    task: Task
    note: str


class SuiteRecipe(Config):
    """`SuiteRecipe(suite="nemotron-h", files="tasks/")`: files are looked for below `files`; `limit` items of each are asked.

    memory   bytes for states and caches while answers are generated
    cache    where judged items are kept, so that none is asked twice; None keeps nothing
    """

    suite: str
    files: str
    limit: int | None = Field(default=None, gt=0)
    memory: int = Field(default=2 * 2**30, gt=0)
    cache: str | None = None

    def check(self) -> None:
        if self.suite not in SUITES:
            raise ConfigError(f"There is no suite '{self.suite}'; there is: {', '.join(SUITES)}.")


def run_suite(recipe: SuiteRecipe, checkpoint: Path, judge: Judge | None = None, follow: Follow = lambda text: None) -> dict[str, Any]:
    """Every row that can be measured, with the published figures beside, and a sentence for every other.

    Raises `ConfigError` when nothing of it can be measured.
    """
    name, files, memory, limit, cache = recipe.suite, Path(recipe.files), recipe.memory, recipe.limit, recipe.cache
    plain = subject_of(checkpoint, memory=memory)
    missing: list[str] = []
    ready = list(_ready(SUITES[name], files, plain, judge, missing))
    if not ready:
        raise ConfigError(f"Nothing of {name} can be measured with what is in {files}. {' '.join(missing)}")
    store = Store(cache) if cache else None
    rows = []
    for each in ready:
        subject = replace(plain, chat=chat_of(plain.tokenizer)) if each.row.chat else plain
        said = lambda done, count, each=each: follow(f"{each.row.name}: {done} of {count} items")  # noqa: E731
        rows.append({**told(each), **facts(measure(each.task, subject, store, limit, said))})
    models = published(rows)
    return {"suite": name, "checkpoint": str(checkpoint), "files": str(files), "models": models, "rows": rows, "missing": missing}


def told(ready: Ready) -> dict[str, Any]:
    row = ready.row
    return {
        "name": row.name,
        "shots": row.shots,
        "metric": row.metric,
        "published": dict(row.published),
        "file": str(ready.path),
        "note": ready.note,
    }


def _ready(rows: tuple[Row, ...], files: Path, subject: Subject, judge: Judge | None, missing: list[str]) -> Iterator[Ready]:
    """Rows that can be measured; a sentence in `missing` for each other one."""
    for row in rows:
        path = found_below(files, row.files)
        if reason := _reason(row, path, files, subject, judge):
            missing.append(f"{row.name}: {reason}")
            continue
        assert path is not None
        examples = found_below(files, row.examples)
        note = f"its {row.shots} examples are the first of its own items" if row.shots and examples is None else ""
        if row.judged:
            assert judge is not None
            yield Ready(row, path, open_conversations(path, judge, found_below(files, row.examples)), "")
        else:
            yield Ready(row, path, open_task(path, row.layout, row.shots, examples), note)


def _reason(row: Row, path: Path | None, files: Path, subject: Subject, judge: Judge | None) -> str | None:
    """Why a row cannot be measured."""
    if row.why:
        return row.why
    if path is None:
        return f"{' or '.join(row.files)} is not below {files}; records need {row.needs}."
    if row.chat:
        try:
            chat_of(subject.tokenizer)
        except ConfigError:
            return "it is for chat models, and this one brings no chat template."
    return "it needs a judge; give --judge URL and --judge-model NAME." if row.judged and judge is None else None


def found_below(files: Path, names: tuple[str, ...]) -> Path | None:
    """The first file of one of these names, in the order of the names; a name may have a directory before it."""
    return next((path for name in names for path in sorted(files.glob(f"**/{name}"))), None)


def published(rows: list[Mapping[str, Any]]) -> list[str]:
    """The models that any of the rows has a published figure of."""
    return list(dict.fromkeys(model for row in rows for model in row["published"]))
