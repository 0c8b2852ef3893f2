"""How many calls may be under way at one endpoint: fewer when it pushes back, more again while it answers."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

BACK_OFF = 0.7


class AdaptiveLimit:
    """`AdaptiveLimit(64)`: at most 64 at once; additive increase, multiplicative decrease, as TCP does it.

    `pushed_back` lowers the limit to 0.7 of itself, once for all calls that were under way together, and holds everybody for the time
    that the server asks for. Each success adds 1 / limit, so a limit grows by one in the time that its calls take once.

        async with limit.slot() as began: ...
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._limit = float(most)
        self._running = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._held_until = 0.0
        self._lowered = 0.0

    @property
    def now(self) -> int:
        """How many may be under way now."""
        return int(self._limit)

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[float]:
        """Wait for a place, first come first served; gives the time at which it was got."""
        await self._enter()
        try:
            yield self._time()
        finally:
            self._running -= 1
            self._admit()

    def succeeded(self) -> None:
        self._limit = min(float(self.most), self._limit + 1 / self._limit)

    def pushed_back(self, began: float, wait: float = 0.0) -> None:
        """A call that began then was refused; `wait` seconds are what the server asks everybody to wait."""
        if began >= self._lowered:
            self._limit = max(1.0, self._limit * BACK_OFF)
            self._lowered = self._time()
        if (until := self._time() + wait) > self._held_until and wait:
            self._held_until = until
            asyncio.get_running_loop().call_at(until, self._admit)

    async def _enter(self) -> None:
        place = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        self._admit()
        try:
            await place
        except asyncio.CancelledError:
            if not place.cancelled():  # it was given a place in the same turn in which it was cancelled
                self._running -= 1
                self._admit()
            raise

    def _admit(self) -> None:
        while self._waiting and self._running < self.now and self._time() >= self._held_until:
            place = self._waiting.popleft()
            if not place.done():
                self._running += 1
                place.set_result(None)

    @staticmethod
    def _time() -> float:
        return asyncio.get_running_loop().time()
