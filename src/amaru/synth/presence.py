"""Whether anybody is at an address: one that was there is waited for, one that never was is not."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from amaru.errors import EndpointError
from amaru.synth.attempt import Away, Broken, PushedBack, Refused
from amaru.synth.endpoint import Endpoint


class Presence:
    """`with presence.noticed(): await post(...)`: of one address, as all who ask it together see it."""

    def __init__(self) -> None:
        self._was_there = False
        self._away_since: float | None = None

    @contextmanager
    def noticed(self) -> Iterator[None]:
        """Around a request: an answer of any kind, and a connection that broke, show that somebody is there."""
        try:
            yield
        except Away:
            self._away_since = self._away_since or time.monotonic()
            raise
        except (PushedBack, Broken, Refused, EndpointError):
            self._there()
            raise
        self._there()

    def is_given_up(self, endpoint: Endpoint, tried: int, wait: float) -> bool:
        """Whether a call that has tried so often shall not wait so many seconds more."""
        return self._seconds + wait >= endpoint.patience if self._was_there else tried >= endpoint.attempts

    def says(self, endpoint: Endpoint) -> str:
        if not self._was_there:
            return f"{endpoint.url} takes no connection; is it running, and is the url right?"
        return f"{endpoint.url} has taken no connection for {self._seconds:,.0f} s, and its patience is {endpoint.patience:g} s."

    def _there(self) -> None:
        self._was_there, self._away_since = True, None

    @property
    def _seconds(self) -> float:
        now = time.monotonic()
        return now - (self._away_since or now)
