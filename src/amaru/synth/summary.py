"""What is in a directory of synthetic data, in plain values: for the card, for the report, and for scripts."""

from collections import Counter
from typing import Any

from amaru.data.contamination import Contamination, texts
from amaru.synth.reading import Finished, results
from amaru.synth.recipe import Bound
from amaru.synth.steps import Starting
from amaru.synth.steps.seeds import Seeds
from amaru.synth.store import Store

PEOPLE, MODELS, RECIPE = "people", "models", "recipe"
SHOWN = 5  # rows in a summary


def summarise(bound: Bound, store: Store, found: list[Finished]) -> dict[str, Any]:
    """Counts of each step, who wrote how much, what was asked of whom, what it cost, and the first rows; `found` is of `read_rows`."""
    rows = list(results(bound, found))
    return {
        "rows": len(rows),
        "licence": bound.recipe.licence,
        "steps": [_step(bound, number, found, store) for number in range(len(found))],
        "characters": dict(written_by(bound, found)),
        "models": _models(bound),
        "seeds": _seeds(bound, found),
        "prompts": [
            {"step": step.name, "prompt": prompt.name, "version": prompt.version}
            for step, named in zip(bound.recipe.steps, bound.prompts, strict=True)
            for prompt in named.values()
        ],
        "evaluations": _evaluations(bound, found),
        "usage": vars(store.usage()),
        "failed_attempts": store.failures(),
        "first_rows": rows[:SHOWN],
    }


def written_by(bound: Bound, found: list[Finished]) -> Counter[str]:
    """Characters of text in the rows at the end, by who wrote them: a text is by whoever had it first.

    `people` brought it in seeds, `models` answered it, `recipe` put it together by templates, functions and choices.
    """
    author: dict[str, str] = {}
    for step, each in zip(bound.recipe.steps, found, strict=True):
        kind = PEOPLE if isinstance(step, Starting) else MODELS if step.asks() else RECIPE
        for row in each.rows:
            for text in texts(row.columns):
                author.setdefault(text, kind)
    counted = Counter({PEOPLE: 0, MODELS: 0, RECIPE: 0})
    for number in bound.recipe.last:
        for row in found[number].rows:
            for text in texts(row.columns):
                counted[author[text]] += len(text)
    return counted


def _step(bound: Bound, number: int, found: list[Finished], store: Store) -> dict[str, Any]:
    step, each, before = bound.recipe.steps[number], found[number], bound.recipe.before(number)
    return {
        "name": step.name,
        "kind": step.kind,
        "after": [bound.recipe.steps[other].name for other in before],
        "taken": sum(len(found[other].rows) for other in before) if before or isinstance(step, Starting) else 1,
        "rows": len(each.rows),
        "dropped": dict(each.dropped),
        "failed": dict(each.failed),
        "unfinished": each.unfinished,
        "usage": vars(store.usage(step.name)),
    }


def _models(bound: Bound) -> list[dict[str, Any]]:
    used = sorted({asked.model for step in bound.recipe.steps for asked in step.asks()})
    endpoints = [(name, bound.recipe.models[name]) for name in used]
    return [{"name": name, "model": each.model, "url": each.url, "licence": each.licence} for name, each in endpoints]


def _seeds(bound: Bound, found: list[Finished]) -> list[dict[str, Any]]:
    given = [(step, each) for step, each in zip(bound.recipe.steps, found, strict=True) if isinstance(step, Starting)]
    return [
        {"step": step.name, "rows": len(each.rows), "licence": step.licence if isinstance(step, Seeds) else None} for step, each in given
    ]


def _evaluations(bound: Bound, found: list[Finished]) -> list[dict[str, Any]]:
    """What was looked for in the rows, and how many had it."""
    return [
        {
            "step": step.name,
            "files": [path.name for path in sets.files],
            "items": sets.items,
            "too_short": sets.too_short,
            "run": sets.run,
            "rows_with_them": each.dropped.total(),
        }
        for step, sets, each in zip(bound.recipe.steps, bound.found, found, strict=True)
        if isinstance(sets, Contamination)
    ]
