"""A TCP connection that is not held open for those who send nothing or read nothing."""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol


class Connection(H11Protocol):
    """uvicorn's HTTP/1.1, and a look at it every `patience` seconds: it is cut off when since the last look no byte of what
    waits for the client was taken, or when all the time a request had begun (or was due) and its headers were not complete.

    Cut off means aborted: closing would wait for the reader. The application then sees a client that hung up.
    """

    def __init__(self, *arguments: Any, patience: float, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._patience = patience
        self._waiting: tuple[int, bool] = (0, False)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._waiting = self._state()
        self._look = self.loop.call_later(self._patience, self._check)

    def connection_lost(self, exc: Exception | None) -> None:
        self._look.cancel()
        super().connection_lost(exc)

    def _check(self) -> None:
        before, self._waiting = self._waiting, self._state()
        if (before[0] and before[0] == self._waiting[0]) or (before[1] and self._waiting[1]):
            self.transport.abort()
        else:
            self._look = self.loop.call_later(self._patience, self._check)

    def _state(self) -> tuple[int, bool]:
        """Bytes that the client has not taken, and whether it owes a request: between requests uvicorn's own timer runs."""
        idle = self.cycle is None or self.cycle.response_complete
        return self.transport.get_write_buffer_size(), idle and self.timeout_keep_alive_task is None
