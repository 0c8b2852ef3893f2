"""A recipe in a directory: run or previewed there, going on where it stopped, with what it came to told in plain values."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from amaru.config import atomic_file, to_dict
from amaru.config.records import read_record
from amaru.config.strict import build
from amaru.errors import ArtifactError
from amaru.synth.budget import Ledger, Usage
from amaru.synth.client import FIRST_PAUSE, Client
from amaru.synth.forecast import forecast
from amaru.synth.making import Maker
from amaru.synth.progress import Now, Watch
from amaru.synth.reading import read_rows
from amaru.synth.recipe import Bound, SynthRecipe
from amaru.synth.running import Running, Tally
from amaru.synth.spread.cluster import joined
from amaru.synth.spread.crew import Crew, Start
from amaru.synth.spread.processes import Pipes
from amaru.synth.store import Store
from amaru.synth.summary import summarise

STORE, RECIPE, RUN, SUMMARY = "store.sqlite", "recipe.yaml", "run.json", "summary.json"
KIND = "synth"
BETWEEN = 0.25  # seconds between two looks at how far it is


def run(
    bound: Bound,
    directory: str | Path,
    only: int | None = None,
    live: Callable[[Now], None] = lambda now: None,
    first_pause: float = FIRST_PAUSE,
    workers: int | None = None,
    ray: str | None = None,
) -> dict[str, Any]:
    """`run(Bound(recipe, Path(".")), "runs/questions")`: every row of every step, and what all runs there used together.

    only     so many rows of each step go on: a preview, whose answers the whole run finds on disk
    live     is told several times a second how far it is
    workers  so many processes make the rows, where rows take more than waiting
    ray      the address of a Ray cluster, on whose machines they are; None of them is then one on each machine

    Raises `BudgetError` or `EndpointError` when no more calls can be made; what was answered until then is kept, and the same call
    goes on from there.
    """
    directory = Path(directory)
    for endpoint in bound.recipe.models.values():
        endpoint.headers()  # a variable that is not set is told before anything is written
    started = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    with Store(directory / STORE) as store:
        if (directory / RUN).exists() and (kind := read_record(directory / RUN).get("kind")) != KIND:
            raise ArtifactError(f"{directory} is a {kind} run; give another --out.")
        _write(directory / RUN, {"kind": KIND, "started": started, "beside": str(bound.directory.resolve())})
        with atomic_file(directory / RECIPE) as temporary:
            temporary.write_text(yaml.safe_dump(to_dict(bound.recipe), sort_keys=False, allow_unicode=True), encoding="utf-8")
        try:
            with _starts(workers, ray) as starts:
                tallies, lost = asyncio.run(_run(bound, store, only, live, first_pause, starts))
        finally:
            _write(directory / SUMMARY, summarise(bound, store, read_rows(bound, store)))
        return {
            "out": str(directory),
            "steps": {name: _plain(tally) for name, tally in tallies.items()},
            "usage": _usage(store.usage()),
            "failed_attempts": store.failures(),
            "workers": max(1, len(starts)),
            "lost_workers": lost,
        }


def opened(directory: str | Path) -> Bound:
    """The recipe of a run as it was run, from its directory. Raises `ArtifactError` when it is no directory of synthetic data."""
    directory = Path(directory)
    if not (directory / RUN).exists() or (run := read_record(directory / RUN)).get("kind") != KIND:
        raise ArtifactError(f"{directory} holds no synthetic data; give what was the --out of amaru synth run.")
    return Bound(build(SynthRecipe, yaml.safe_load((directory / RECIPE).read_text(encoding="utf-8"))), Path(run["beside"]))


@contextmanager
def _starts(workers: int | None, ray: str | None) -> Iterator[list[Start]]:
    if ray is None:
        yield [Pipes.start] * (workers or 0)
    else:
        with joined(ray, workers) as starts:
            yield starts


async def _run(
    bound: Bound, store: Store, only: int | None, live: Callable[[Now], None], first_pause: float, starts: list[Start]
) -> tuple[dict[str, Tally], list[str]]:
    """What became of the rows, and the workers that were lost on the way."""
    ledger = Ledger(bound.recipe.budget, store.usage())
    before, models = ledger.spent, bound.recipe.models.values()
    async with Crew(bound, store, ledger, starts, first_pause) if starts else Client(models, store, ledger, first_pause) as client:
        maker = client if isinstance(client, Crew) else Maker(bound, client)
        running = Running(bound, store, maker, only, wide=max(1, len(starts)))
        watch = Watch(bound.recipe, forecast(bound), running.tallies, only)

        async def watching() -> None:
            while True:
                live(watch.now(ledger.spent - before, ledger.spent, client.refused))
                await asyncio.sleep(BETWEEN)

        watcher = asyncio.create_task(watching())
        try:
            return await running.run(), client.lost if isinstance(client, Crew) else []
        finally:
            watcher.cancel()


def _plain(tally: Tally) -> dict[str, Any]:
    return {
        "taken": tally.taken,
        "rows": tally.made,
        "kept_from_before": tally.kept_from_before,
        "dropped": dict(tally.dropped),
        "failed": dict(tally.failed),
    }


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "calls": usage.calls,
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "money": round(usage.money, 6),
    }


def _write(path: Path, values: dict[str, Any]) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(values, ensure_ascii=False, indent=2), encoding="utf-8")
