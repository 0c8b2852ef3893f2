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
    """`sum(step.usage.calls for step in forecast(bound))`: an upper bound where nothing fails and filters keep what they say.

    A function is taken to make one row of each.
    """
    expected: list[Expected] = []
    differing: list[dict[str, int]] = []
    for number, step in enumerate(bound.recipe.steps):
        before = bound.recipe.before(number)
        taken = sum(expected[other].rows for other in before) if before else int(not isinstance(step, Starting))
        columns = _differing(differing, before)
        rows = len(seeds(bound, number)) if isinstance(step, Starting) else step.rows_of(taken, columns)
        differing.append(columns | dict.fromkeys(step.makes(set()) or (), rows))
        used = store.usage(step.name) if store else Usage()
        usage = sum((_usage(bound, number, asked, used) for asked in step.calls(taken)), Usage())
        after = tuple(bound.recipe.steps[other].name for other in before)
        expected.append(Expected(step.name, step.kind, after, taken, rows, usage, used.calls))
    return expected


def _differing(differing: list[dict[str, int]], before: tuple[int, ...]) -> dict[str, int]:
    """How many different values each column has at most in the rows of those steps: as many as there were rows where it was made."""
    names = {name for other in before for name in differing[other]}
    return {name: sum(differing[other].get(name, 0) for other in before) for name in names}


def _usage(bound: Bound, number: int, asked: Asked, used: Usage) -> Usage:
    """Calls as long as those of the step were on average, where there were some."""
    calls = asked.times
    if used.calls:
        prompt, completion = calls * used.prompt_tokens // used.calls, calls * used.completion_tokens // used.calls
    else:
        prompt, completion = calls * _prompt_tokens(bound, number, asked), calls * bound.sampling(asked).max_tokens
    return Usage(calls, prompt, completion, (bound.recipe.models[asked.model].price or FREE).of(prompt, completion))


def _prompt_tokens(bound: Bound, number: int, asked: Asked) -> int:
    prompt = bound.prompts[number][asked.prompt] if asked.prompt else None
    text = prompt.text + COLUMN * len(prompt.needs) if prompt else COLUMN
    return len(text + str(asked.schema or "")) // BYTES_A_TOKEN
