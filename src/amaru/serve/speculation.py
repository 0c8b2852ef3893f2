"""Guesses of what an answer says next, which the model verifies in one pass: fewer passes, the same tokens.

A token of a guess is kept exactly if the request's own sampler takes it from the model's logits, so a bad guess costs time and
changes nothing.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from amaru.errors import ConfigError
from amaru.models.decoder import Decoder
from amaru.serve.budget import room_for
from amaru.serve.forward import Work, advance
from amaru.serve.sequence import Running
from amaru.serve.state_pool import Lease, StatePool

log = logging.getLogger(__name__)

RUNS = (4, 3, 2)  # tokens that must have stood there before for what followed them to be guessed again
LONGEST_PAUSE = 64  # steps without a guess when guesses keep being wrong


class Guesser(Protocol):
    """Where guesses come from; `bytes` are what it holds for that on the model's device."""

    @property
    def bytes(self) -> int: ...

    def guess(self, wanted: Mapping[Running, int]) -> dict[Running, list[int]]:
        """At most so many tokens after each one's `ids`; who has none is left out or has an empty list."""
        ...

    def forget(self, running: Running) -> None:
        """It has ended."""
        ...


class Speculation:
    """`drafts = speculation.drafts(running, room)`; after the pass `speculation.learn(running, drafted, accepted)`; `forget` at the end.

    `most` tokens are guessed at once, fewer for a request whose guesses are poor.
    """

    def __init__(self, guesser: Guesser, most: int) -> None:
        self._guesser = guesser
        self._most = most
        self._broken = False
        self._paces: dict[Running, Pace] = {}

    @property
    def bytes(self) -> int:
        return self._guesser.bytes

    def drafts(self, runnings: Sequence[Running], room: int) -> dict[Running, list[int]]:
        """For those that decode, so that all they bring to a step is at most `room` tokens.

        None for one that must first see again what it accepted beside a wrong guess (`Engine._settle`), once that is as long as a guess.
        """
        decoding = [each for each in runnings if each.decodes]
        room -= sum(each.waiting for each in decoding)
        wanted = {}
        for running in decoding:
            if not running.settings.speculate or running.waiting > self._most:
                continue
            pace = self._paces.setdefault(running, Pace(self._most))
            count = min(pace.next(), running.reach - len(running.ids) - 1, room)
            if count > 0:
                wanted[running] = count
                room -= count
        return {running: draft for running, draft in self._guesses(wanted).items() if draft}

    def _guesses(self, wanted: Mapping[Running, int]) -> dict[Running, list[int]]:
        """A guesser that fails costs speed, and no one's answer."""
        if self._broken or not wanted:
            return {}
        try:
            return self._guesser.guess(wanted)
        except Exception:
            log.exception("guessing the next tokens failed; all answers go on, without guesses from now on")
            self._broken = True
            return {}

    def learn(self, running: Running, drafted: int, accepted: int) -> None:
        running.handle.drafted_tokens += drafted
        running.handle.accepted_tokens += accepted
        self._paces[running].learn(accepted)

    def forget(self, running: Running) -> None:
        self._paces.pop(running, None)
        self._guesser.forget(running)


class Pace:
    """How many tokens to guess next: one more than twice what was right, and none for a while after being wrong again and again."""

    def __init__(self, most: int) -> None:
        self._most = self._length = most
        self._misses = self._pause = 0

    def next(self) -> int:
        if self._pause:
            self._pause -= 1
            return 0
        return self._length

    def learn(self, accepted: int) -> None:
        self._length = min(self._most, 2 * accepted + 1)
        self._misses = 0 if accepted else self._misses + 1
        self._pause = min(2**self._misses, LONGEST_PAUSE) if self._misses > 1 else 0


class Lookup:
    """Guesses that the text repeats itself: what followed the last tokens when they stood together before."""

    bytes = 0

    def __init__(self) -> None:
        self._runs: dict[Running, Runs] = {}

    def guess(self, wanted: Mapping[Running, int]) -> dict[Running, list[int]]:
        return {running: self._runs.setdefault(running, Runs()).follow(running.ids, count) for running, count in wanted.items()}

    def forget(self, running: Running) -> None:
        self._runs.pop(running, None)


class Runs:
    """`Runs().follow([1, 2, 3, 9, 1, 2], 3) == [3, 9, 1]`: where each run of tokens ended last, learnt as the text grows."""

    def __init__(self) -> None:
        self._ends: dict[tuple[int, ...], int] = {}
        self._known = 1

    def follow(self, ids: list[int], count: int) -> list[int]:
        for end in range(self._known, len(ids)):
            for run in RUNS:
                if end >= run:
                    self._ends[tuple(ids[end - run : end])] = end
        self._known = max(self._known, len(ids))
        ends = (self._ends.get(tuple(ids[-run:])) for run in RUNS)
        place = next((end for end in ends if end), None)
        return [] if place is None else _repeated(ids[place : place + count], count)


def _repeated(tokens: list[int], count: int) -> list[int]:
    """What comes next, begun anew when the text's end is reached: a text that repeats itself this far does so further."""
    return (tokens * -(-count // len(tokens)))[:count]


@dataclass(eq=False)
class Follower:
    """The draft model's side of one request: `seen` of its tokens are in its state, and `guess` is what it says comes after them."""

    lease: Lease
    seen: int = 0
    guess: list[int] = field(default_factory=list)


class DraftModel:
    """Guesses what a smaller model with the same vocabulary finds likeliest. It has states and caches of its own, in `memory` bytes.

    It reads every prompt too, at most `chunk` tokens a step; a request that finds no room in its pool runs without guesses.
    """

    def __init__(self, draft: Decoder, vocab: int, memory: int, most_running: int, capacity: int, chunk: int) -> None:
        if draft.config.vocab != vocab:
            raise ConfigError(f"The draft model knows {draft.config.vocab} tokens and the model {vocab}; both must have one vocabulary.")
        self._draft = draft
        self._pool = StatePool(draft, room_for(draft, memory, most_running, capacity, chunk), capacity)
        self._chunk = chunk
        self._followers: dict[Running, Follower] = {}

    @property
    def bytes(self) -> int:
        return self._pool.bytes

    def guess(self, wanted: Mapping[Running, int]) -> dict[Running, list[int]]:
        followers = {running: follower for running in wanted if (follower := self._follower(running))}
        self._read({running: follower for running, follower in followers.items() if follower.seen < len(running.ids)})
        ready = {running: follower for running, follower in followers.items() if follower.guess and follower.seen == len(running.ids)}
        self._lengthen([(follower, wanted[running]) for running, follower in ready.items() if len(follower.guess) < wanted[running]])
        return {running: follower.guess[: wanted[running]] for running, follower in ready.items()}

    def forget(self, running: Running) -> None:
        if follower := self._followers.pop(running, None):
            self._pool.give_back(follower.lease)

    def _follower(self, running: Running) -> Follower | None:
        if running not in self._followers:
            needed = self._pool.needed(running.reach, self._chunk)
            if not self._pool.fits(needed):
                return None
            self._followers[running] = Follower(self._pool.admit(needed))
        return self._followers[running]

    def _read(self, followers: Mapping[Running, Follower]) -> None:
        """One pass over what they have not seen, as far as it reaches: it tells the next token of those that have seen all."""
        left, reading = self._chunk, []
        for running, follower in sorted(followers.items(), key=lambda item: len(item[0].ids) - item[1].seen):
            if count := min(left, len(running.ids) - follower.seen):
                left -= count
                reading.append((follower, running.ids[follower.seen : follower.seen + count]))
        for (follower, ids), token in zip(reading, self._pass(reading), strict=True):
            follower.seen += len(ids)
            follower.guess = [token]
            self._pool.forget(follower.lease, follower.seen)

    def _lengthen(self, wishes: list[tuple[Follower, int]]) -> None:
        """A token more per pass; afterwards their states are again what they were, for no one knows yet what is accepted."""
        before = [self._pool.fixed(follower.lease) for follower, _ in wishes]
        for follower, _ in wishes:
            follower.guess = follower.guess[:1]
        for length in range(1, max((count for _, count in wishes), default=0)):
            going = [(follower, follower.guess[-1:]) for follower, count in wishes if length < count]
            for (follower, _), token in zip(going, self._pass(going, length - 1), strict=True):
                follower.guess.append(token)
        for (follower, _), fixed in zip(wishes, before, strict=True):
            self._pool.restore(follower.lease, fixed)
            self._pool.retract(follower.lease, follower.seen)

    def _pass(self, bring: list[tuple[Follower, list[int]]], ahead: int = 0) -> list[int]:
        """The likeliest token after what each brings, which follows `ahead` tokens behind those it has seen."""
        if not bring:
            return []
        for follower, ids in bring:
            self._pool.extend(follower.lease, follower.seen + ahead + len(ids))
        work = [Work(ids, follower.seen + ahead, follower.lease.slot) for follower, ids in bring]
        return advance(self._draft, self._pool.state, work).argmax(-1).tolist()
