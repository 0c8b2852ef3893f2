"""The requests behind one HTTP request: handed to the engine's thread, their events brought back to the event loop."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from time import perf_counter
from typing import Any, NamedTuple

from amaru.serve.request import Event, Handle, Settings
from amaru.serve.server.chat import Prompt
from amaru.serve.server.errors import Refusal
from amaru.serve.server.metrics import Metrics
from amaru.serve.server.served import Served

RETRY_AFTER = 5.0  # seconds, after which another server is likely to have taken this one's place

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class Part(NamedTuple):
    """An event of choice `index`."""

    index: int
    handle: Handle
    event: Event


class Answer:
    """`answer.submit(...)` once per choice, then `async for index, handle, event in answer`, until all are done.

    Events wait here while the reader takes its time: at most as many as the choices have tokens, and only for as long as
    the connection bears a reader that takes nothing (`connection`). A request that takes longer than `seconds`, whose
    client hangs up, or that is left half read is cancelled in the engine.
    """

    def __init__(self, served: Served, metrics: Metrics, seconds: float, receive: Receive) -> None:
        self._served, self._metrics, self._receive = served, metrics, receive
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Part | Refusal] = asyncio.Queue()
        self.handles: list[Handle] = []
        self._start = perf_counter()
        late = f"The request was ended after {seconds:g} seconds, the longest that this server works on one."
        self._clock = self._loop.call_later(seconds, self.end, Refusal(504, late))
        served.host.answers.add(self)

    def submit(self, prompt: Prompt, settings: Settings) -> None:
        """Queue one more choice; from any thread. When the engine refuses it, `cancel` those before it."""
        if self._served.host.failed:
            raise going_down()
        index = len(self.handles)

        def hand_over(handle: Handle, event: Event) -> None:  # on the engine's thread
            self._loop.call_soon_threadsafe(self._events.put_nowait, Part(index, handle, event))

        self.handles.append(self._served.engine.submit(prompt.ids, settings, hand_over, prompt.boundaries))

    def cancel(self) -> None:
        """Every answer ends with this, whole or not; on the event loop's thread."""
        self._clock.cancel()
        self._served.host.answers.discard(self)
        for handle in self.handles:
            handle.cancel()

    def end(self, refusal: Refusal) -> None:
        """Tell the client at once, whether or not the engine notices."""
        self._events.put_nowait(refusal)
        self.cancel()

    async def __aiter__(self) -> AsyncIterator[Part]:
        """Raises `Refusal` when the engine could not finish a choice."""
        running = set(range(len(self.handles)))
        last: dict[int, float] = {}
        listening = asyncio.create_task(self._cancel_at_hangup())
        try:
            while running:
                part = await self._events.get()
                if isinstance(part, Refusal):
                    raise part
                if part.event.tokens:
                    last[part.index] = self._metrics.token(self._served.name, self._start, last.get(part.index))
                if part.event.finish:
                    self._check(part.event)
                    running.discard(part.index)
                yield part
        finally:
            listening.cancel()
            self.cancel()

    async def _cancel_at_hangup(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.cancel()

    @staticmethod
    def _check(event: Event) -> None:
        if event.finish == "error":
            raise Refusal(500, f"The engine could not finish this request: {event.error}")
        if event.finish == "cancelled":  # not by the server, which says why: the client is gone, or the engine stops
            raise going_down()


def going_down() -> Refusal:
    return Refusal(503, "The server is going down and does not finish this request.", retry_after=RETRY_AFTER)
