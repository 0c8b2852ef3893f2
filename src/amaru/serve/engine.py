"""The engine: requests come and go, and every step runs all that can run in one token-major batch.

    engine = Engine(load("student"), Tokenizer.load("student"))
    threading.Thread(target=engine.run, daemon=True).start()
    engine.submit(tokenizer.encode("def main("), Settings(max_tokens=64), lambda handle, event: print(event.text, end=""))
"""

import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from amaru.config import Config
from amaru.data.tokenizer import Tokenizer
from amaru.errors import AmaruError, BusyError, ConfigError
from amaru.models.decoder import Decoder
from amaru.serve.budget import room_for
from amaru.serve.constraint import Constraints
from amaru.serve.forward import CHUNK_TOKENS, Work, hidden_after
from amaru.serve.prefix import PrefixCache
from amaru.serve.request import Event, Handle, Settings
from amaru.serve.sequence import OnEvent, Running
from amaru.serve.speculation import DraftModel, Lookup, Speculation
from amaru.serve.state_pool import Fixed, Room, StatePool

log = logging.getLogger(__name__)

PROMPT_LOGITS = 256  # rows of logits that exist at once when a prompt's log-probabilities are asked for


class EngineConfig(Config):
    """`EngineConfig(memory=4 * 2**30, max_running=32)`: how much the engine may hold, and how it shares its steps.

    memory         bytes for states and caches of running sequences
    max_running    sequences that run at once, if memory allows
    max_waiting    requests that may queue; more are refused as busy
    max_tokens     the longest sequence, prompt and answer together; None: what the model was trained with
    chunk_tokens   tokens of a step; bounds the activations of a long prompt, and how long others wait for it
    prefix_bytes   for states after known prefixes, beside `memory`; 0 switches reuse off
    prefix_every   besides a prompt's end, remember its state after every so many tokens
    speculate      where guesses of the next tokens come from: "lookup" in the text so far, or a "draft" model
    draft_tokens   the most that are guessed at once
    draft_memory   bytes for the draft model's states and caches, beside `memory`
    """

    memory: int = Field(default=2 * 2**30, gt=0)
    max_running: int = Field(default=32, gt=0)
    max_waiting: int = Field(default=256, ge=0)
    max_tokens: int | None = Field(default=None, gt=0)
    chunk_tokens: int = Field(default=CHUNK_TOKENS, gt=0)
    prefix_bytes: int = Field(default=2**30, ge=0)
    prefix_every: int = Field(default=1024, gt=0)
    speculate: Literal["off", "lookup", "draft"] = "off"
    draft_tokens: int = Field(default=5, gt=0)
    draft_memory: int = Field(default=2**28, gt=0)


COUNTERS: tuple[str, ...] = (
    *("prompt_tokens", "reused_tokens", "generated_tokens", "drafted_tokens", "accepted_tokens"),
    *("steps", "finished", "cancelled", "failed"),
)


class EngineStats(Config):
    """Gauges of now, and counters since the start."""

    running: int
    waiting: int
    slots: int
    free_slots: int
    pages: int
    free_pages: int
    bytes: int
    snapshots: int
    snapshot_bytes: int
    prompt_tokens: int
    reused_tokens: int
    generated_tokens: int
    drafted_tokens: int
    accepted_tokens: int
    steps: int
    finished: int
    cancelled: int
    failed: int
    seconds_in_steps: float


class Share(NamedTuple):
    """A sequence's part of a step: so many of its waiting tokens, and a guess of what comes after them."""

    running: Running
    count: int
    draft: list[int]


class Engine:
    """One model and everyone who uses it. `submit` and `cancel` may be called from any thread, `step` from one only."""

    def __init__(
        self,
        decoder: Decoder,
        tokenizer: Tokenizer | None = None,
        config: EngineConfig = EngineConfig(),  # noqa: B008  (frozen)
        room: Room | None = None,
        draft: Decoder | None = None,
    ) -> None:
        """`room` says how large the pool is, instead of `config.memory`; `draft` is the model that guesses for this one."""
        self.decoder = decoder
        self.tokenizer = tokenizer
        self.config = config
        self.max_tokens = config.max_tokens or decoder.config.max_positions
        states = 1 if config.speculate == "off" else 2
        shape = (config.memory, config.max_running, self.max_tokens, config.chunk_tokens, config.prefix_bytes)
        room = room or room_for(decoder, *shape, states)
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
        self._counts = dict.fromkeys(COUNTERS, 0)
        self._seconds = 0.0

    def _speculate(self, draft: Decoder | None) -> Speculation | None:
        config = self.config
        if (draft is not None) != (config.speculate == "draft"):
            given = "no draft model" if draft is None else "a draft model"
            raise ConfigError(f'A draft model and EngineConfig.speculate="draft" go together; got {given} and "{config.speculate}".')
        if config.speculate == "off":
            return None
        if draft is None:
            return Speculation(Lookup(), config.draft_tokens)
        vocab, shape = self.decoder.config.vocab, (config.draft_memory, self._slots, self.max_tokens, config.chunk_tokens)
        return Speculation(DraftModel(draft, vocab, *shape), config.draft_tokens)

    def submit(self, prompt: Sequence[int], settings: Settings, on_event: OnEvent, boundaries: Sequence[int] = ()) -> Handle:
        """Queue a request; `on_event(handle, event)` is called on the engine's thread, the last time with a `finish`.

        `boundaries` are lengths of the prompt after which others are likely to go on (the end of a system prompt).
        Raises `ConfigError` for a prompt that cannot be run or a schema that cannot be kept to (`BackendError` without llguidance),
        `CapacityError` for a request that would never fit, `BusyError` when the queue is full or the engine is stopping.
        """
        prompt = list(prompt)
        self._check(prompt)
        self._pool.check(len(prompt) + settings.max_tokens, self.config.chunk_tokens)
        constraint = None if settings.schema is None else self._constraints.of(settings.schema, settings.stop)
        handle = Handle(f"request-{next(self._numbers)}", len(prompt), lambda: self._cancel(running))
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
            self._tell(running, running.end("cancelled"))
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
        self._drop_cancelled()
        self._admit()
        shares = list(self._shares())
        if shares:
            try:
                self._pass(shares)
            except Exception as error:
                self._fail([share.running for share in shares], error)
        self._retire()
        self._counts["steps"] += bool(shares)
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
            **self._counts,
        )

    def _check(self, prompt: list[int]) -> None:
        vocab = self.decoder.config.vocab
        if not prompt:
            raise ConfigError("The prompt has no token; generation needs at least one to begin with.")
        if unknown := [token for token in prompt if not 0 <= token < vocab]:
            raise ConfigError(f"The prompt has token {unknown[0]}, but the model knows 0 to {vocab - 1}.")

    def _wait(self) -> float:
        """Seconds until someone is likely to be done: an estimate from the steps so far."""
        per_step = self._seconds / max(1, self._counts["steps"])
        left = [running.reach - len(running.ids) for running in self._running]
        return max(1.0, per_step * min(left, default=0))

    def _cancel(self, running: Running) -> None:
        running.cancelled = True
        with self._changed:
            self._changed.notify()

    def _drop_cancelled(self) -> None:
        for running in [each for each in [*self._running, *self._waiting] if each.cancelled and not each.finish]:
            self._tell(running, running.end("cancelled"))

    def _admit(self) -> None:
        """First come, first served: whoever does not fit yet holds up those behind."""
        while self._waiting:
            running = self._waiting[0]
            if not running.finish:
                needed = self._pool.needed(running.reach, self.config.chunk_tokens)
                if self._prefixes is not None and self._pool.free and not self._pool.fits(needed):
                    self._prefixes.free_pages(needed)
                if not self._pool.fits(needed):
                    return
                running.lease = self._pool.admit(needed)
                self._reuse(running)
                self._running.append(running)
            self._waiting.popleft()

    def _reuse(self, running: Running) -> None:
        assert running.lease is not None
        snapshot = self._prefixes.find(running.ids) if self._prefixes is not None and not running.settings.prompt_logprobs else None
        self._counts["prompt_tokens"] += len(running.ids)
        if snapshot is None or self._prefixes is None:
            return
        self._prefixes.resume(snapshot, running.lease)
        running.computed = running.handle.reused_tokens = snapshot.tokens
        self._counts["reused_tokens"] += snapshot.tokens
        if snapshot.tokens == len(running.ids):  # the whole prompt is known, and what comes behind it
            self._choose(running, self.decoder.logits(snapshot.hidden[None])[0])

    def _shares(self) -> list[Share]:
        """How many waiting tokens of whom: those that decode first, then prompts as far as a step reaches, each up to a place
        that is worth remembering."""
        drafts = self._speculation.drafts(self._running, self.config.chunk_tokens) if self._speculation else {}
        left, shares = max(self.config.chunk_tokens, len(self._running)), []
        for running in sorted(self._running, key=lambda each: each.waiting + len(drafts.get(each, ()))):
            if not running.finish and (count := min(running.until_boundary(), running.waiting, left)):
                draft = drafts.get(running, [])[: left - count]
                left -= count + len(draft)
                shares.append(Share(running, count, draft))
        return shares

    def _pass(self, shares: list[Share]) -> None:
        work, before = [], []
        for running, count, draft in shares:
            assert running.lease is not None
            self._pool.extend(running.lease, running.computed + count + len(draft))
            before.append(self._pool.fixed(running.lease) if draft else [])
            work.append(Work(running.ids[running.computed :][:count] + draft, running.computed, running.lease.slot))
        rows = hidden_after(self.decoder, self._pool.state, work).split([len(item.ids) for item in work])
        read = [hidden[share.count - 1 :] for share, hidden in zip(shares, rows, strict=True)]
        logits = self.decoder.logits(torch.cat(read)).split([len(each) for each in read])
        for share, hidden, following, fixed in zip(shares, rows, logits, before, strict=True):
            self._after(share, hidden, following, fixed)

    def _after(self, share: Share, hidden: Tensor, logits: Tensor, before: Fixed) -> None:
        """A sequence's part of a step is done: remember, tell, choose."""
        running, count, draft = share
        assert running.lease is not None
        start, running.computed = running.computed, running.computed + count
        if running.settings.prompt_logprobs and start < running.handle.prompt_tokens:
            for first in range(0, count, PROMPT_LOGITS):
                running.tell_prompt(self.decoder.logits(hidden[first : first + PROMPT_LOGITS]), start + first)
        if not draft:
            self._pool.forget(running.lease, running.computed)
        if self._prefixes is not None and running.computed in running.boundaries:
            self._prefixes.keep(running.ids[: running.computed], running.lease, hidden[-1])
        if not running.waiting:
            accepted = self._choose_along(running, draft, logits)
            if draft:
                self._settle(share, accepted, before)
            if running.finish and self._prefixes is not None and start + count > running.handle.prompt_tokens:
                self._see_again(running, start + count + accepted)
                self._prefixes.keep(running.ids[: running.computed], running.lease, hidden[count - 1 + accepted])

    def _choose_along(self, running: Running, draft: list[int], logits: Tensor) -> int:
        """Choose from each row of logits as long as the choice is what was guessed; returns how many were."""
        for accepted, row in enumerate(logits):
            self._choose(running, row)
            if running.finish or running.cancelled or accepted == len(draft) or running.ids[-1] != draft[accepted]:
                return accepted
        return len(draft)

    def _settle(self, share: Share, accepted: int, before: Fixed) -> None:
        """Of a guess that was not accepted as a whole the state has seen too much. A cache forgets by being written again; a fixed
        state is put back to before the pass, and sees what was accepted with the next tokens: no weight is read for that alone."""
        running, count, draft = share
        assert running.lease is not None and self._speculation is not None
        if accepted == len(draft) or not self._pool.fixed_bytes:
            running.computed += accepted
        else:
            self._pool.restore(running.lease, before)
            running.computed -= count
        self._pool.retract(running.lease, running.computed)
        self._pool.forget(running.lease, running.computed)
        self._speculation.learn(running, len(draft), accepted)
        self._counts["drafted_tokens"] += len(draft)
        self._counts["accepted_tokens"] += accepted

    def _see_again(self, running: Running, tokens: int) -> None:
        """Bring a state that was put back to where its text ends, where it is worth remembering."""
        assert running.lease is not None
        if running.computed < tokens:
            self._pool.extend(running.lease, tokens)
            work = Work(running.ids[running.computed : tokens], running.computed, running.lease.slot)
            hidden_after(self.decoder, self._pool.state, [work])
            running.computed = tokens
            self._pool.forget(running.lease, tokens)

    def _choose(self, running: Running, logits: Tensor) -> None:
        try:
            event = running.choose(logits)
        except Exception as error:
            self._fail([running], error)
            return
        self._counts["generated_tokens"] += len(event.tokens)
        self._tell(running, event)

    def _tell(self, running: Running, event: Event) -> None:
        """An event nobody can take ends the request, and no other."""
        if event.finish:
            kind = {"cancelled": "cancelled", "error": "failed"}.get(event.finish, "finished")
            self._counts[kind] += 1
        try:
            running.on_event(running.handle, event)
        except Exception:
            log.exception("the receiver of %s failed; the request is cancelled", running.handle.id)
            running.cancelled = True

    def _fail(self, runnings: Sequence[Running], error: Exception) -> None:
        if not isinstance(error, AmaruError):
            log.exception("a step failed")
        said = str(error) if isinstance(error, AmaruError) else f"{type(error).__name__}: {error}"
        for running in runnings:
            if not running.finish:
                self._tell(running, running.end("error", said))

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
