"""How what happens to a request reaches who asked for it, and the counts."""

import logging
from collections.abc import Sequence

from amaru.errors import AmaruError
from amaru.serve.request import Event
from amaru.serve.rows import Row
from amaru.serve.sequence import Running
from amaru.serve.stats import COUNTERS

log = logging.getLogger(__name__)


class Teller:
    """`teller.choose(running, row)` adds a token and tells it; `tell` any other event, `fail` an error; `counts` what was told."""

    def __init__(self) -> None:
        self.counts = dict.fromkeys(COUNTERS, 0)

    def choose(self, running: Running, row: Row) -> None:
        """The next token from a row of logits."""
        try:
            event = running.choose(row)
        except Exception as error:
            self.fail([running], error)
            return
        self.counts["generated_tokens"] += len(event.tokens)
        self.tell(running, event)

    def tell(self, running: Running, event: Event) -> None:
        """An event nobody can take ends the request, and no other."""
        if event.finish:
            kind = {"cancelled": "cancelled", "error": "failed"}.get(event.finish, "finished")
            self.counts[kind] += 1
        try:
            running.on_event(running.handle, event)
        except Exception:
            log.exception("the receiver of %s failed; the request is cancelled", running.handle.id)
            running.cancelled = True

    def fail(self, runnings: Sequence[Running], error: Exception) -> None:
        if not isinstance(error, AmaruError):
            log.exception("a step failed")
        said = str(error) if isinstance(error, AmaruError) else f"{type(error).__name__}: {error}"
        for running in runnings:
            if not running.finish:
                self.tell(running, running.end("error", said))
