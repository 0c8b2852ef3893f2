"""Several workers in place of one: each row is made by the worker that its key falls to, and by another one when that is lost."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import astuple, dataclass, field
from itertools import count
from typing import Any, Protocol

from amaru.config import fingerprint_bytes, to_dict
from amaru.errors import ProcessError
from amaru.synth.budget import Ledger, Usage
from amaru.synth.call import Answer, Call
from amaru.synth.recipe import Bound
from amaru.synth.row import Made, Row
from amaru.synth.spread.line import Line, Message
from amaru.synth.store import Store


class Channel(Protocol):
    """How messages get to a worker and back. `listen` returns when the worker is gone."""

    async def send(self, message: Message) -> None: ...

    async def listen(self, received: Callable[[Message], None]) -> None: ...

    async def close(self) -> None: ...


Start = Callable[[], Awaitable[Channel]]


@dataclass
class Member:
    """One worker: its line, the calls it asks for now, and what it has set aside for them."""

    name: str
    channel: Channel
    line: Line
    claims: dict[str, AsyncExitStack] = field(default_factory=dict)
    reserved: dict[int, tuple[AsyncExitStack, Any]] = field(default_factory=dict)
    refused: int = 0


class Crew:
    """`async with Crew(bound, store, ledger, starts) as crew: Running(bound, store, crew)`: makes rows as a `Maker` does.

    A row falls to the worker with the highest hash of both their keys (rendezvous hashing), so rows are spread evenly, the same call is
    rarely wanted by two, and when a worker is lost only its rows go to others. Answers and failures are on the disk of this process before
    they count; the budget is one for all. Raises `ProcessError` when no worker is left.
    """

    def __init__(self, bound: Bound, store: Store, ledger: Ledger, starts: list[Start], first_pause: float) -> None:
        self.bound = bound
        self.store = store
        self.ledger = ledger
        self.lost: list[str] = []
        self._starts = starts
        self._first_pause = first_pause
        self._members: dict[str, Member] = {}
        self._listeners: list[asyncio.Task[None]] = []
        self._numbers = count()
        self._refused_by_lost = 0

    @property
    def refused(self) -> int:
        return self._refused_by_lost + sum(member.refused for member in self._members.values())

    async def __aenter__(self) -> "Crew":
        try:
            await asyncio.gather(*(self._hire(f"worker {number}", start) for number, start in enumerate(self._starts)))
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        for listener in self._listeners:
            listener.cancel()
        await asyncio.gather(*self._listeners, return_exceptions=True)
        await asyncio.gather(*(member.channel.close() for member in self._members.values()))

    async def make(self, number: int, row: Row) -> list[Made]:
        unit = self.bound.unit(number, row.key)
        while True:
            if not self._members:
                raise ProcessError(f"No worker is left ({'; '.join(self.lost)}). What was answered is kept; the same command goes on.")
            member = max(self._members.values(), key=lambda each: fingerprint_bytes(each.name, unit))
            try:
                made, member.refused = await member.line.call("make", number, row.place, row.key, row.columns)
            except ProcessError:
                if member.name in self._members:
                    raise
                continue
            return [Made(key, columns, tuple(calls)) for key, columns, calls in made]

    async def _hire(self, name: str, start: Start) -> None:
        channel = await start()
        member = Member(name, channel, Line(channel.send, lambda what, *values: self._serve(member, what, *values)))
        self._members[name] = member
        self._listeners.append(asyncio.create_task(self._listen(member)))
        await member.line.call("begin", to_dict(self.bound.recipe), str(self.bound.directory.resolve()), self._first_pause)

    async def _listen(self, member: Member) -> None:
        why = "ended"
        try:
            await member.channel.listen(member.line.received)
        except (ValueError, OSError) as error:  # longer than a message may be, or none at all: nothing behind it can be read
            why = f"sent what cannot be read ({error})"
        self._members.pop(member.name)
        self.lost.append(f"{member.name} {why}")
        self._refused_by_lost += member.refused
        member.line.broken(self.lost[-1])
        for held in [*member.claims.values(), *(stack for stack, _ in member.reserved.values())]:
            await held.aclose()
        await member.channel.close()

    async def _serve(self, member: Member, what: str, *values: Any) -> Any:
        match what, values:
            case "claim", [key]:
                return await self._claim(member, key)
            case "release", [key]:
                await member.claims.pop(key).aclose()
            case "reserve", [most]:
                stack = AsyncExitStack()
                receipt = await stack.enter_async_context(self.ledger.reserved(Usage(*most)))
                member.reserved[number := next(self._numbers)] = stack, receipt
                return number
            case "settle", [number, used]:
                stack, receipt = member.reserved.pop(number)
                receipt.used = Usage(*used)
                await stack.aclose()
            case "keep", [request, step, content, finish, usage, seconds]:
                await self.store.keep(Call.read(request), step, Answer(content, finish, Usage(*usage)), seconds)
            case "lament", [request, step, reason, usage, content]:
                await self.store.lament(Call.read(request), step, reason, Usage(*usage), content)

    async def _claim(self, member: Member, key: str) -> list[Any] | None:
        stack = AsyncExitStack()
        kept = await stack.enter_async_context(self.store.claimed(key))
        member.claims[key] = stack
        return [kept.content, kept.finish, astuple(kept.usage)] if kept else None
