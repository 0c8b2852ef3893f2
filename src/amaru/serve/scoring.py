"""A reward model and everyone who asks it: answers that wait are scored together in one pass. From outside it is an `Engine`.

    engine = ScoringEngine(scorer("runs/reward/model"))
    threading.Thread(target=engine.run, daemon=True).start()
    engine.submit(engine.scorer.ids(messages), Settings(), lambda handle, event: print(event.tokens))
"""

import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from amaru.config import to_dict
from amaru.errors import AmaruError, BusyError
from amaru.models.reward.scorer import Scored, Scorer
from amaru.ops.exactness import exact
from amaru.serve.config import EngineConfig
from amaru.serve.request import Event, Handle, Settings, Token
from amaru.serve.sequence import OnEvent
from amaru.serve.stats import COUNTERS, EngineStats

log = logging.getLogger(__name__)

HEEDED = ("max_waiting", "max_tokens", "exact")  # of an engine's settings; a reward model holds no states and draws nothing
AGAIN = 1.0  # seconds, after which a full queue is likely to have moved


@dataclass(eq=False)
class Asked:
    """One answer that waits for its score."""

    handle: Handle
    ids: list[int]
    on_event: OnEvent
    cancelled: bool = False


class ScoringEngine:
    """What a request gets is one event: a `Token` for each attribute, its name as text and its value as log-probability, and `stop`.

    `submit` and `cancel` may be called from any thread, `step` from one only. Of `config` it heeds what `HEEDED` names.
    """

    def __init__(self, scorer: Scorer, config: EngineConfig = EngineConfig()) -> None:  # noqa: B008  (frozen)
        self.scorer, self.config = scorer, config
        if config.max_tokens:
            scorer.max_tokens = config.max_tokens
        self.decoder, self.tokenizer, self.max_tokens = scorer.model.decoder, scorer.model.prompts.tokenizer, scorer.max_tokens
        self._waiting: deque[Asked] = deque()
        self._changed = threading.Condition()
        self._numbers = itertools.count()
        self._stopping: str | None = None
        self._running = 0
        self._counts = dict.fromkeys(COUNTERS, 0)
        self._seconds = 0.0

    def submit(self, prompt: Sequence[int], settings: Settings, on_event: OnEvent, boundaries: Sequence[int] = ()) -> Handle:
        """Queue an answer that is tokens already (`Scorer.ids`). Raises `BusyError` when the queue is full or the engine is stopping."""
        handle = Handle(f"score-{next(self._numbers)}", len(prompt), lambda: setattr(asked, "cancelled", True))
        asked = Asked(handle, list(prompt), on_event)
        with self._changed:
            if self._stopping or len(self._waiting) >= self.config.max_waiting:
                reason = "is stopping" if self._stopping else f"has {len(self._waiting)} requests waiting, as many as it takes"
                raise BusyError(f"The engine {reason}; try again in a moment.", retry_after=AGAIN)
            self._waiting.append(asked)
            self._changed.notify()
        return handle

    def run(self) -> None:
        """Step until `stop`; sleeps while there is nothing to do."""
        while True:
            with self._changed:
                while not (self._waiting or self._stopping):
                    self._changed.wait()
                if self._stopping == "now" or (self._stopping and not self._waiting):
                    break
            self.step()
        for asked in self._waiting:
            self._tell(asked, Event(finish="cancelled"), "cancelled")

    def stop(self, drain: bool = True) -> None:
        """Take no more requests; `run` returns when those it has are done (`drain`), or at once, cancelling them."""
        with self._changed:
            self._stopping = "drained" if drain else "now"
            self._changed.notify()

    def step(self) -> bool:
        """Score what waits, as much as fits into one pass; False when nobody waits any more."""
        start, asked = time.perf_counter(), self._taken()
        for each in [each for each in asked if each.cancelled]:
            self._tell(each, Event(finish="cancelled"), "cancelled")
        self._running = len(asked := [each for each in asked if not each.cancelled])
        if asked:
            self._score(asked)
        self._running, self._seconds = 0, self._seconds + time.perf_counter() - start
        return bool(self._waiting)

    def stats(self) -> EngineStats:
        nothing = dict.fromkeys(("slots", "free_slots", "pages", "free_pages", "bytes", "snapshots", "snapshot_bytes"), 0)
        return EngineStats(running=self._running, waiting=len(self._waiting), seconds_in_steps=self._seconds, **nothing, **self._counts)

    def _taken(self) -> list[Asked]:
        """First come, first served, until a pass is full."""
        taken, size = [], 0
        with self._changed:
            while self._waiting and (not taken or size + len(self._waiting[0].ids) <= self.scorer.tokens):
                taken.append(self._waiting.popleft())
                size += len(taken[-1].ids)
        return taken

    def _score(self, asked: Sequence[Asked]) -> None:
        try:
            with exact(self.config.exact):
                found = self.scorer.scores([each.ids for each in asked])
        except Exception as error:  # of this pass; whoever comes next is not concerned
            if not isinstance(error, AmaruError):
                log.exception("a pass failed")
            told = str(error) if isinstance(error, AmaruError) else f"{type(error).__name__}: {error}"
            for each in asked:
                self._tell(each, Event(finish="error", error=told), "failed")
            return
        self._counts["steps"] += 1
        for each, scored in zip(asked, found, strict=True):
            self._counts["prompt_tokens"] += len(each.ids)
            self._tell(each, Event(tokens=tokens_of(scored), finish="stop"), "finished")

    def _tell(self, asked: Asked, event: Event, what: str) -> None:
        """A score that nobody can take ends no other's."""
        self._counts[what] += 1
        try:
            asked.on_event(asked.handle, event)
        except Exception:
            log.exception("the receiver of %s failed", asked.handle.id)


def idle(config: EngineConfig) -> list[str]:
    """Settings that are not at their default and that a reward model does not heed."""
    default = to_dict(EngineConfig())
    return [name for name, value in to_dict(config).items() if name not in HEEDED and value != default[name]]


def tokens_of(scored: Scored) -> tuple[Token, ...]:
    """Attributes as the hosted reward model tells them."""
    return tuple(Token(number, name, value) for number, (name, value) in enumerate(scored.attributes.items()))
