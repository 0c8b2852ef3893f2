"""A worker: makes the rows that it is told to make, and asks whoever started it before each call whether it may, and whether it must."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import astuple
from pathlib import Path
from typing import Any

from amaru.config.strict import build
from amaru.synth.budget import Budget, Receipt, Usage
from amaru.synth.call import Answer, Call
from amaru.synth.client import Client
from amaru.synth.making import Maker
from amaru.synth.recipe import Bound, SynthRecipe
from amaru.synth.row import Row
from amaru.synth.spread.line import Line, Message


class Worker:
    """`Worker(send)`, then `worker.line.received(message)` for each message that comes: first `begin`, then `make` for each row."""

    def __init__(self, send: Callable[[Message], Awaitable[None]]) -> None:
        self.line = Line(send, self._serve)

    async def _serve(self, name: str, *values: Any) -> Any:
        return await {"begin": self._begin, "make": self._make}[name](*values)

    async def _begin(self, recipe: dict[str, Any], directory: str, first_pause: float) -> None:
        bound = Bound(build(SynthRecipe, recipe), Path(directory))
        ledger = DistantLedger(self.line, bound.recipe.budget)
        self._client = await Client(bound.recipe.models.values(), Distant(self.line), ledger, first_pause).__aenter__()
        self._maker = Maker(bound, self._client)

    async def _make(self, number: int, place: list[int], key: str, columns: dict[str, Any]) -> list[Any]:
        """The rows, and how often the endpoints pushed this worker back so far."""
        made = await self._maker.make(number, Row(tuple(place), key, columns))
        return [[[each.key, each.columns, list(each.calls)] for each in made], self._client.refused]


class Distant:
    """The store at the other end of the line, as far as a client needs it."""

    def __init__(self, line: Line) -> None:
        self._line = line

    @asynccontextmanager
    async def claimed(self, key: str) -> AsyncIterator[Answer | None]:
        kept = await self._line.call("claim", key)
        try:
            yield Answer(kept[0], kept[1], Usage(*kept[2])) if kept else None
        finally:
            await self._line.call("release", key)

    async def keep(self, call: Call, step: str, answer: Answer, seconds: float) -> None:
        await self._line.call("keep", call.request, step, answer.content, answer.finish, astuple(answer.usage), seconds)

    async def lament(self, call: Call, step: str, reason: str, usage: Usage, content: str = "") -> None:
        await self._line.call("lament", call.request, step, reason, astuple(usage), content)


class DistantLedger:
    """The ledger at the other end: a budget is one for all workers."""

    def __init__(self, line: Line, budget: Budget) -> None:
        self._line = line
        self.budget = budget

    @asynccontextmanager
    async def reserved(self, most: Usage) -> AsyncIterator[Receipt]:
        receipt, number = Receipt(), await self._line.call("reserve", astuple(most))
        try:
            yield receipt
        finally:
            await self._line.call("settle", number, astuple(receipt.used))
