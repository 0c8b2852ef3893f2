"""The engine: requests come and go, and every step runs all that can run in one token-major batch.

    engine = Engine(load("student"), Tokenizer.load("student"))
    threading.Thread(target=engine.run, daemon=True).start()
    engine.submit(tokenizer.encode("def main("), Settings(max_tokens=64), lambda handle, event: print(event.text, end=""))
"""

import itertools
import threading
import time
import weakref
from collections import deque
from collections.abc import Sequence

import torch

from amaru.data.tokenizer import Tokenizer
from amaru.errors import BusyError, ConfigError
from amaru.models.decoder import Decoder
from amaru.ops.exactness import exact, is_exact
from amaru.ops.paged_attention import NARROW
from amaru.serve.adapted import names_of
from amaru.serve.budget import room_for
from amaru.serve.config import EngineConfig
from amaru.serve.constraint import Constraints
from amaru.serve.draft import DraftModel
from amaru.serve.forward import Work, advance
from amaru.serve.lookup import Lookup
from amaru.serve.prefix import PrefixCache
from amaru.serve.request import Handle, Settings
from amaru.serve.sequence import OnEvent, Running
from amaru.serve.speculation import Speculation
from amaru.serve.state_pool import Room, StatePool
from amaru.serve.stats import EngineStats
from amaru.serve.step import Stepper
from amaru.serve.teller import Teller


class Engine:
    """One model and everyone who uses it. `submit` and `cancel` may be called from any thread, `step` from one only."""

    stepper: type[Stepper] = Stepper

    def __init__(
        self,
        decoder: Decoder,
        tokenizer: Tokenizer | None = None,
        config: EngineConfig = EngineConfig(),  # noqa: B008  (frozen)
        room: Room | None = None,
        draft: Decoder | None = None,
    ) -> None:
        """`room` says how large the pool is, instead of `config.memory`; `draft` is the model that guesses for this one.

        Raises `BackendError` when exactness is asked for and something on this machine cannot give it.
        """
        self.decoder = decoder
        if config.kv == "fp8":
            decoder.narrow_kv = NARROW
        if config.state == "bf16":
            decoder.state_dtype = torch.bfloat16
        self.tokenizer = tokenizer
        self.config = config
        self.max_tokens = config.max_tokens or decoder.config.max_positions
        states = 1 if config.speculate == "off" else 2
        shape = (config.memory, config.max_running, self.max_tokens, config.chunk_tokens, config.prefix_bytes)
        room = room or room_for(decoder, *shape, states)
        with exact(self._exact):
            if config.exact:
                advance(decoder, decoder.new_state(1, 1), [Work([0], 0, 0)])  # what is not served is said now
            self._pool = StatePool(decoder, room, self.max_tokens)
        self._slots = room.slots
        self._constraints = Constraints(tokenizer, decoder.config.vocab)
        self._prefixes = PrefixCache(self._pool, config.prefix_bytes) if config.prefix_bytes else None
        self._speculation = self._speculate(draft)
        self._waiting: deque[Running] = deque()
        self._running: list[Running] = []
        self._changed = threading.Condition()
        self._numbers = itertools.count()
        self._stopping: str | None = None
        self._teller = Teller()
        self._stepper = self.stepper(decoder, self._pool, self._prefixes, self._speculation, config.chunk_tokens, self._teller)
        self._seconds = 0.0

    def _speculate(self, draft: Decoder | None) -> Speculation | None:
        config = self.config
        if (draft is not None) != (config.speculate == "draft"):
            given = "no draft model" if draft is None else "a draft model"
            raise ConfigError(f'A draft model and EngineConfig.speculate="draft" go together; got {given} and "{config.speculate}".')
        if config.speculate == "off":
            return None
        if draft is None:
            return Speculation(Lookup(), config.draft_tokens, config.draft_step)
        vocab, shape = self.decoder.config.vocab, (config.draft_memory, self._slots, self.max_tokens, config.chunk_tokens)
        return Speculation(DraftModel(draft, vocab, *shape, config.draft_prefix_bytes), config.draft_tokens, config.draft_step)

    def submit(self, prompt: Sequence[int], settings: Settings, on_event: OnEvent, boundaries: Sequence[int] = ()) -> Handle:
        """Queue a request; `on_event(handle, event)` is called on the engine's thread, the last time with a `finish`.

        `boundaries` are lengths of the prompt after which others are likely to go on (the end of a system prompt).
        Raises `ConfigError` for a prompt that cannot be run or a schema that cannot be kept to (`BackendError` without llguidance),
        `CapacityError` for a request that would never fit, `BusyError` when the queue is full or the engine is stopping.
        """
        prompt = list(prompt)
        self._check(prompt, settings.adapter)
        self._pool.check(len(prompt) + settings.max_tokens, self.config.chunk_tokens)
        constraint = None if settings.schema is None else self._constraints.of(settings.schema, settings.stop)
        held = weakref.ref(self)  # a handle that somebody keeps is no reason to keep the pool

        def cancel() -> None:
            if engine := held():
                engine._cancel(running)

        handle = Handle(f"request-{next(self._numbers)}", len(prompt), cancel)
        places = [*boundaries, *range(self.config.prefix_every, len(prompt), self.config.prefix_every)]
        places = [place for place in places if 0 < place < len(prompt)]
        running = Running(handle, prompt, settings, on_event, self.tokenizer, places, constraint)
        with self._changed:
            if self._stopping or len(self._waiting) >= self.config.max_waiting:
                reason = "is stopping" if self._stopping else f"has {len(self._waiting)} requests waiting, as many as it takes"
                raise BusyError(f"The engine {reason}; try again in a moment.", retry_after=self._wait())
            self._waiting.append(running)
            self._changed.notify()
        return handle

    def run(self) -> None:
        """Step until `stop`; sleeps while there is nothing to do."""
        while True:
            with self._changed:
                while not (self._waiting or self._running or self._stopping):
                    self._changed.wait()
                if self._stopping == "now" or (self._stopping and not (self._waiting or self._running)):
                    break
            self.step()
        for running in [*self._running, *self._waiting]:
            self._teller.tell(running, running.end("cancelled"))
        self._retire()

    def stop(self, drain: bool = True) -> None:
        """Take no more requests; `run` returns when those it has are done (`drain`), or at once, cancelling them."""
        with self._changed:
            self._stopping = "drained" if drain else "now"
            self._changed.notify()

    @torch.inference_mode()
    def step(self) -> bool:
        """One pass of the model for everyone who can run; False when nobody waits or runs any more."""
        start = time.perf_counter()
        with exact(self._exact):
            self._drop_cancelled()
            self._admit()
            self._teller.counts["steps"] += self._stepper.step(self._running)
            self._retire()
        self._seconds += time.perf_counter() - start
        return bool(self._running or self._waiting)

    def stats(self) -> EngineStats:
        pages = self._pool.pages.values()
        return EngineStats(
            running=len(self._running),
            waiting=len(self._waiting),
            slots=self._slots,
            free_slots=self._pool.free,
            pages=sum(each.count for each in pages),
            free_pages=sum(each.free for each in pages),
            bytes=self._pool.bytes + (self._speculation.bytes if self._speculation else 0),
            snapshots=len(self._prefixes) if self._prefixes is not None else 0,
            snapshot_bytes=self._prefixes.bytes if self._prefixes is not None else 0,
            seconds_in_steps=self._seconds,
            **self._teller.counts,
        )

    @property
    def _exact(self) -> bool:
        return self.config.exact or is_exact()

    def _check(self, prompt: list[int], adapter: str | None) -> None:
        vocab = self.decoder.config.vocab
        if adapter is not None and adapter not in (known := names_of(self.decoder)):
            raise ConfigError(f"The model has no adapter '{adapter}'; it has: {', '.join(known) or 'none'}.")
        if not prompt:
            raise ConfigError("The prompt has no token; generation needs at least one to begin with.")
        if unknown := [token for token in prompt if not 0 <= token < vocab]:
            raise ConfigError(f"The prompt has token {unknown[0]}, but the model knows 0 to {vocab - 1}.")

    def _wait(self) -> float:
        """Seconds until someone is likely to be done: an estimate from the steps so far."""
        per_step = self._seconds / max(1, self._teller.counts["steps"])
        left = [running.reach - len(running.ids) for running in self._running]
        return max(1.0, per_step * min(left, default=0))

    def _cancel(self, running: Running) -> None:
        running.cancelled = True
        with self._changed:
            self._changed.notify()

    def _drop_cancelled(self) -> None:
        for running in [each for each in [*self._running, *self._waiting] if each.cancelled and not each.finish]:
            self._teller.tell(running, running.end("cancelled"))

    def _admit(self) -> None:
        """First come, first served: whoever does not fit yet holds up those behind."""
        while self._waiting and self._may_begin(running := self._waiting[0]):
            if not running.finish:
                needed = self._pool.needed(running.reach, self.config.chunk_tokens)
                if self._prefixes is not None and self._pool.free and not self._pool.fits(needed):
                    self._prefixes.free_pages(needed)
                if not self._pool.fits(needed):
                    return
                running.lease = self._pool.admit(needed)
                self._stepper.begin(running)
                self._running.append(running)
            self._waiting.popleft()

    def _may_begin(self, running: Running) -> bool:
        """Whether it is known wherever it has to be; an engine on several processes asks more."""
        return True

    def _retire(self) -> None:
        """Whoever is done gives back slot and pages."""
        for running in [each for each in self._running if each.finish]:
            assert running.lease is not None
            self._pool.give_back(running.lease)
            if self._speculation is not None:
                self._speculation.forget(running)
        self._running = [each for each in self._running if not each.finish]
        with self._changed:
            self._waiting = deque(each for each in self._waiting if not each.finish)
