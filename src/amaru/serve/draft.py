"""Guesses from a smaller model, which follows every request with a state of its own."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from amaru.errors import ConfigError
from amaru.models.decoder import Decoder
from amaru.serve.budget import room_for
from amaru.serve.forward import Work, advance
from amaru.serve.prefix import PrefixCache
from amaru.serve.sequence import Running
from amaru.serve.state_pool import Lease, StatePool


@dataclass(eq=False)
class Follower:
    """The draft model's side of one request: `seen` of its tokens are in its state, and `guess` is what it says comes after them."""

    lease: Lease
    seen: int = 0
    guess: list[int] = field(default_factory=list)


class DraftModel:
    """Guesses what a smaller model with the same vocabulary finds likeliest. It has states and caches of its own, in `memory` bytes,
    and remembers prefixes as the engine does, in `prefix` bytes.

    It reads every prompt too, at most `chunk` tokens a step; a request that finds no room in its pool runs without guesses.
    """

    def __init__(self, draft: Decoder, vocab: int, memory: int, most_running: int, capacity: int, chunk: int, prefix: int = 0) -> None:
        if draft.config.vocab != vocab:
            raise ConfigError(f"The draft model knows {draft.config.vocab} tokens and the model {vocab}; both must have one vocabulary.")
        self._draft = draft
        self._pool = StatePool(draft, room_for(draft, memory, most_running, capacity, chunk, prefix), capacity)
        self._prefixes = PrefixCache(self._pool, prefix) if prefix else None
        self._chunk = chunk
        self._followers: dict[Running, Follower] = {}

    @property
    def bytes(self) -> int:
        return self._pool.bytes

    def guess(self, wanted: Mapping[Running, int]) -> dict[Running, list[int]]:
        followers = {running: follower for running in wanted if (follower := self._follower(running))}
        left = self._chunk
        while left and (behind := {each: follower for each, follower in followers.items() if follower.seen < len(each.ids)}):
            left -= self._read(behind, left)
        ready = {running: follower for running, follower in followers.items() if follower.guess and follower.seen == len(running.ids)}
        self._lengthen([(follower, wanted[running]) for running, follower in ready.items() if len(follower.guess) < wanted[running]])
        return {running: follower.guess[: wanted[running]] for running, follower in ready.items()}

    def forget(self, running: Running) -> None:
        if follower := self._followers.pop(running, None):
            if follower.seen > running.handle.prompt_tokens:
                self._remember(running, follower)
            self._pool.give_back(follower.lease)

    def _follower(self, running: Running) -> Follower | None:
        if running not in self._followers:
            needed = self._pool.needed(running.reach, self._chunk)
            if self._prefixes is not None and self._pool.free and not self._pool.fits(needed):
                self._prefixes.free_pages(needed)
            if not self._pool.fits(needed):
                return None
            self._followers[running] = follower = Follower(self._pool.admit(needed))
            if self._prefixes is not None and (snapshot := self._prefixes.find(running.ids[:-1])):  # one token is left to guess from
                self._prefixes.resume(snapshot, follower.lease)
                follower.seen = snapshot.tokens
        return self._followers[running]

    def _remember(self, running: Running, follower: Follower) -> None:
        if self._prefixes is not None:
            self._prefixes.keep(running.ids[: follower.seen], follower.lease)

    def _read(self, followers: Mapping[Running, Follower], most: int) -> int:
        """One pass over at most so many tokens that they have not seen, each up to a place that is worth remembering; it tells the
        next token of those that have seen all. Returns how many tokens it took."""
        left, reading = most, {}
        for running, follower in sorted(followers.items(), key=lambda item: len(item[0].ids) - item[1].seen):
            if count := min(left, running.until_boundary(follower.seen)):
                left -= count
                reading[running] = (follower, running.ids[follower.seen : follower.seen + count])
        for (running, (follower, ids)), token in zip(reading.items(), self._pass(list(reading.values())), strict=True):
            follower.seen += len(ids)
            follower.guess = [token]
            self._pool.forget(follower.lease, follower.seen)
            if follower.seen in running.boundaries:
                self._remember(running, follower)
        return most - left

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
