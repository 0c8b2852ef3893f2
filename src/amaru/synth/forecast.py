"""What a recipe would ask before it asks: rows and calls of each step, tokens and money, measured where calls were made already."""

from dataclasses import dataclass
from typing import Any

from amaru.synth.budget import Usage
from amaru.synth.client import FREE
from amaru.synth.making import seeds
from amaru.synth.recipe import Bound
from amaru.synth.schema import list_schema
from amaru.synth.steps import Asking, Fields, Listed, Seeds, Text
from amaru.synth.store import Store

BYTES_A_TOKEN = 4  # of English text, about
COLUMN = "x" * 80  # what stands for a column that no row has yet


@dataclass(frozen=True)
class Expected:
    """One step: rows in and out, calls, and what they use; `measured` over so many calls, else the answers are at their longest."""

    name: str
    kind: str
    after: tuple[str, ...]
    taken: int
    rows: int
    usage: Usage
    measured: int


def forecast(bound: Bound, store: Store | None = None) -> list[Expected]:
    """`sum(step.usage.calls for step in forecast(bound))`: an upper bound where nothing fails; filters are taken to keep every row.

    A function is taken to make one row of each.
    """
    expected: list[Expected] = []
    for number, step in enumerate(bound.recipe.steps):
        before = bound.recipe.before(number)
        taken = sum(expected[other].rows for other in before) if before else 1
        rows = len(seeds(bound, number)) if isinstance(step, Seeds) else taken * _rows_of_one(step)
        calls = taken * (step.samples if isinstance(step, Text) else 1) if isinstance(step, Asking) else 0
        used = store.usage(step.name) if store else Usage()
        after = tuple(bound.recipe.steps[other].name for other in before)
        expected.append(Expected(step.name, step.kind, after, taken, rows, _usage(bound, number, calls, used), used.calls))
    return expected


def _rows_of_one(step: Any) -> int:
    return step.count if isinstance(step, Listed) else step.samples if isinstance(step, Text) else 1


def _usage(bound: Bound, number: int, calls: int, used: Usage) -> Usage:
    step = bound.recipe.steps[number]
    if not isinstance(step, Asking):
        return Usage()
    price = bound.recipe.models[step.model].price or FREE
    if used.calls:
        prompt, completion = calls * used.prompt_tokens // used.calls, calls * used.completion_tokens // used.calls
    else:
        prompt, completion = calls * _prompt_tokens(bound, number), calls * bound.sampling(number).max_tokens
    return Usage(calls, prompt, completion, price.of(prompt, completion))


def _prompt_tokens(bound: Bound, number: int) -> int:
    step, prompt = bound.recipe.steps[number], bound.prompts[number]
    schema = list_schema(step.count) if isinstance(step, Listed) else step.schema if isinstance(step, Fields) else ""
    text = prompt.text + COLUMN * len(prompt.needs) + str(schema)
    return len(text) // BYTES_A_TOKEN
