"""What a recipe would ask before it asks: rows and calls of each step, tokens and money, measured where calls were made already."""

from dataclasses import dataclass

from amaru.synth.budget import Usage
from amaru.synth.client import FREE
from amaru.synth.making import seeds
from amaru.synth.recipe import Bound
from amaru.synth.steps import Asked, Starting
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
        rows = len(seeds(bound, number)) if isinstance(step, Starting) else step.rows_of(taken)
        used = store.usage(step.name) if store else Usage()
        usage = sum((_usage(bound, number, asked, taken * asked.times, used) for asked in step.asks()), Usage())
        after = tuple(bound.recipe.steps[other].name for other in before)
        expected.append(Expected(step.name, step.kind, after, taken, rows, usage, used.calls))
    return expected


def _usage(bound: Bound, number: int, asked: Asked, calls: int, used: Usage) -> Usage:
    """Of so many calls; as long as the step's calls were on average, where there were some."""
    if used.calls:
        prompt, completion = calls * used.prompt_tokens // used.calls, calls * used.completion_tokens // used.calls
    else:
        prompt, completion = calls * _prompt_tokens(bound, number, asked), calls * bound.sampling(asked).max_tokens
    return Usage(calls, prompt, completion, (bound.recipe.models[asked.model].price or FREE).of(prompt, completion))


def _prompt_tokens(bound: Bound, number: int, asked: Asked) -> int:
    prompt = bound.prompts[number][asked.prompt] if asked.prompt else None
    text = prompt.text + COLUMN * len(prompt.needs) if prompt else COLUMN
    return len(text + str(asked.schema or "")) // BYTES_A_TOKEN
