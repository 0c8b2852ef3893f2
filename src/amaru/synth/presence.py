"""Whether anybody is at an endpoint: one that was there is waited for, one that never was is not."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from amaru.synth.attempt import Away
from amaru.synth.endpoint import Endpoint


class Presence:
    """`with presence.noticed(): await post(...)`: of one endpoint, as all who ask it together see it."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._was_there = False
        self._away_since: float | None = None

    @contextmanager
    def noticed(self) -> Iterator[None]:
        """Around a request: whatever it ends in but `Away` shows that somebody is there."""
        try:
            yield
        except Away:
            self._away_since = self._away_since or time.monotonic()
            raise
        except Exception:
            self._there()
            raise
        self._there()

    def is_given_up(self, tried: int, wait: float) -> bool:
        """Whether a call that has tried so often shall not wait so many seconds more."""
        return self._seconds + wait >= self._endpoint.patience if self._was_there else tried >= self._endpoint.attempts

    def __str__(self) -> str:
        url, patience = self._endpoint.url, self._endpoint.patience
        if not self._was_there:
            return f"{url} takes no connection; is it running, and is the url right?"
        return f"{url} has taken no connection for {self._seconds:,.0f} s, and its patience is {patience:g} s."

    def _there(self) -> None:
        self._was_there, self._away_since = True, None

    @property
    def _seconds(self) -> float:
        now = time.monotonic()
        return now - (self._away_since or now)
