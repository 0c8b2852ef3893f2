"""Runs a recipe: every row goes on as soon as it is made, later steps first, and whatever was finished before is read, not made."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Protocol, TypeVar

from amaru.errors import ConfigError
from amaru.synth.client import Failed
from amaru.synth.gathering import gather
from amaru.synth.making import seeds
from amaru.synth.recipe import Bound
from amaru.synth.row import DROPPED, FAILED, START, Dropped, Made, Row, placed
from amaru.synth.steps import Gathering, Starting
from amaru.synth.store import Store

T = TypeVar("T")
WITHOUT_MODEL = 32  # units at once of steps that ask nobody
TOGETHER = 1000  # rows written at once by steps that look at all of them


@dataclass
class Tally:
    """What became of the rows that a step took."""

    taken: int = 0
    done: int = 0
    made: int = 0
    kept_from_before: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)


class Makes(Protocol):
    """Whoever makes the rows: a `Maker`, or several workers."""

    async def make(self, number: int, row: Row) -> list[Made]: ...


class Running:
    """`await Running(bound, store, Maker(bound, client)).run()`: what became of the rows of each step, by its name.

    only   so many rows of each step go on, for a preview
    wide   how many workers make rows: so many times as many are under way at once

    A unit (a step and a row) that fails is recorded and tried again by the next run; the others go on. When no call can be made any more
    (a budget that is used up, a key that is refused) what is under way is finished and kept, and the error raised. The memory it takes
    grows with the calls under way and the rows that wait: steps near the end go first.
    """

    def __init__(self, bound: Bound, store: Store, maker: Makes, only: int | None = None, wide: int = 1) -> None:
        self.bound = bound
        self.store = store
        self.maker = maker
        self.only = only
        self.wide = wide
        self.steps = bound.recipe.steps
        self.tallies = {step.name: Tally() for step in self.steps}
        self._lanes: dict[Any, asyncio.PriorityQueue[tuple[int, tuple[int, ...], int, int, Row]]] = {}
        self._gathered: dict[int, list[Row]] = {number: [] for number, step in enumerate(self.steps) if isinstance(step, Gathering)}
        self._tickets = count()
        self._waiting = self._busy = 0
        self._still = asyncio.Event()
        self._error: BaseException | None = None

    async def run(self) -> dict[str, Tally]:
        for prompt in {prompt.version: prompt for prompts in self.bound.prompts for prompt in prompts.values()}.values():
            await self.store.keep_prompt(prompt.version, prompt.name, prompt.text)
        workers = [asyncio.create_task(self._work(lane)) for lane, width in self._widths().items() for _ in range(width * self.wide)]
        try:
            await self._begin()
            await self._until_still()
            for number in sorted(self._gathered):
                if self._error is None:
                    self._pass_on(number, await self._gather(number))
                    await self._until_still()
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
        if self._error is not None:
            raise self._error
        return self.tallies

    async def _begin(self) -> None:
        for number, step in enumerate(self.steps):
            if isinstance(step, Starting):
                made = seeds(self.bound, number)
                await self.store.finish(self.bound.unit(number, START.key), step.name, START.key, made)
                self.tallies[step.name].made += len(made)
                self._pass_on(number, placed(number, START, made))
            elif not self.bound.recipe.before(number):
                self._put(number, START)

    def _lane(self, number: int) -> Any:
        """Units that wait for each other's places: those of one endpoint, the first that a step asks, and those that ask nobody."""
        asks = self.steps[number].asks()
        endpoint = self.bound.recipe.models[asks[0].model] if asks else None
        return (endpoint.url, endpoint.model) if endpoint else None

    def _widths(self) -> dict[Any, int]:
        widths: dict[Any, int] = {None: WITHOUT_MODEL}
        for endpoint in self.bound.recipe.models.values():
            widths[endpoint.url, endpoint.model] = endpoint.concurrency
        self._lanes = {lane: asyncio.PriorityQueue() for lane in widths}
        return widths

    def _put(self, number: int, row: Row) -> None:
        tally = self.tallies[self.steps[number].name]
        if self.only is not None and tally.taken >= self.only and number not in self._gathered:  # those look at all there are
            return
        tally.taken += 1
        if number in self._gathered:
            self._gathered[number].append(row)
            return
        self._waiting += 1
        self._lanes[self._lane(number)].put_nowait((-number, row.place, next(self._tickets), number, row))

    def _pass_on(self, number: int, rows: list[Row]) -> None:
        for after in self.bound.recipe.following(number):
            for row in rows:
                self._put(after, row)

    async def _work(self, lane: Any) -> None:
        while True:
            *_, number, row = await self._lanes[lane].get()
            self._waiting -= 1
            if self._error is None:
                self._busy += 1
                try:
                    await self._unit(number, row)
                except Exception as error:
                    self._error = self._error or error
                finally:
                    self._busy -= 1
            if not self._busy and not self._waiting:
                self._still.set()

    async def _until_still(self) -> None:
        self._still.clear()
        if self._waiting or self._busy:
            await self._still.wait()

    async def _unit(self, number: int, row: Row) -> None:
        name, unit = self.steps[number].name, self.bound.unit(number, row.key)
        tally = self.tallies[name]
        made = self.store.finished(unit)
        if made is not None:
            tally.kept_from_before += 1
            if not made and (outcome := self.store.outcome(unit)):
                tally.dropped[outcome[1]] += 1
        else:
            made = await self._made(number, row, unit, tally)
        tally.done += 1
        tally.made += len(made)
        self._pass_on(number, placed(number, row, made))

    async def _made(self, number: int, row: Row, unit: str, tally: Tally) -> tuple[Made, ...]:
        name = self.steps[number].name
        try:
            made = await self.maker.make(number, row)
        except Dropped as reason:
            tally.dropped[str(reason)] += 1
            await self.store.finish(unit, name, row.key, (), DROPPED, str(reason), reason.matched)
            return ()
        except (Failed, ConfigError) as reason:  # a template or a function that does not take this row: the others may go on
            tally.failed[str(reason)] += 1
            await self.store.finish(unit, name, row.key, (), FAILED, str(reason))
            return ()
        await self.store.finish(unit, name, row.key, made)
        return tuple(made)

    async def _gather(self, number: int) -> list[Row]:
        """What a step that looks at all its rows makes of them; where each comes from is kept, and why others were left out."""
        name, taken = self.steps[number].name, self._gathered[number]
        gathered, tally = gather(self.bound, number, taken), self.tallies[name]
        tally.done += len(taken)
        tally.made += len(gathered.rows)
        tally.dropped += gathered.dropped
        for some in _parts(gathered.rows):
            rows = ((each.parent, Made(each.row.key, each.row.columns, (), each.others)) for each in some)
            units = [(self.bound.unit(number, parent), parent, [made]) for parent, made in rows]
            await asyncio.gather(*(self.store.finish(unit, name, parent, made) for unit, parent, made in units))
        for some in _parts(gathered.left_out):
            dropped = ((self.bound.unit(number, each.row.key), each) for each in some)
            finish, said = self.store.finish, DROPPED
            await asyncio.gather(*(finish(unit, name, each.row.key, (), said, each.reason, each.matched) for unit, each in dropped))
        return [each.row for each in gathered.rows]


def _parts(many: list[T]) -> Iterator[list[T]]:
    return (many[first : first + TOGETHER] for first in range(0, len(many), TOGETHER))
