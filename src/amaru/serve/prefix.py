"""Prompts that begin alike: states after known prefixes, so that only what is new is computed."""

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from amaru.serve.state_pool import Lease, StatePool


@dataclass(frozen=True, eq=False)
class Snapshot:
    """Everything a sequence remembers after `tokens` tokens; `hidden` [hidden] is what the head read last, where that is of use.

    Pages that no one writes any more are shared with whoever else holds them; the last one, and those of a window, are copies.
    """

    tokens: int
    fixed: list[dict[str, Tensor]]
    pages: Mapping[str, list[int | None]]
    hidden: Tensor | None
    bytes: int


class PrefixCache:
    """`snapshot = cache.find(prompt)`; `cache.resume(snapshot, lease)`; `cache.keep(ids, lease, hidden)`.

    What a model remembers with an adapter is of use to that adapter only; `adapter` names it.
    The least recently used are forgotten when `budget` bytes are exceeded, or when their pages are needed.
    """

    def __init__(self, pool: StatePool, budget: int) -> None:
        self._pool = pool
        self._budget = budget
        self._known: OrderedDict[bytes, Snapshot] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._known)

    def find(self, prompt: Sequence[int], adapter: str | None = None) -> Snapshot | None:
        """The longest known prefix of the prompt; it counts as used now."""
        lengths = sorted({snapshot.tokens for snapshot in self._known.values() if snapshot.tokens <= len(prompt)})
        keys = dict(zip(lengths, _keys(prompt, lengths, adapter), strict=True))
        for length in reversed(lengths):
            if snapshot := self._known.get(keys[length]):
                self._known.move_to_end(keys[length])
                return snapshot
        return None

    def resume(self, snapshot: Snapshot, lease: Lease) -> None:
        """Give a sequence that was just admitted the state and pages of the snapshot."""
        self._pool.restore(lease, snapshot.fixed)
        for sight, pages in snapshot.pages.items():
            self._pool.adopt(lease, sight, pages, whole=self._whole(snapshot.tokens, sight))

    def keep(self, ids: Sequence[int], lease: Lease, hidden: Tensor | None = None, adapter: str | None = None) -> None:
        """Remember the state of a sequence that has computed exactly `ids`; nothing happens when it is known or no room can be made."""
        (key,) = _keys(ids, [len(ids)], adapter)
        if key in self._known:
            self._known.move_to_end(key)
            return
        copied = {sight: self._copied(len(ids), sight, lease.pages[sight]) for sight in lease.pages}
        size = self._pool.fixed_bytes + sum(self._pool.page_bytes[sight] * count for sight, count in copied.items())
        if size > self._budget or not self._make_room(size, copied):
            return
        pages = {sight: self._pool.lend(lease, sight, whole=self._whole(len(ids), sight)) for sight in lease.pages}
        self._known[key] = Snapshot(len(ids), self._pool.fixed(lease), pages, None if hidden is None else hidden.clone(), size)
        self.bytes += size

    def free_pages(self, needed: Mapping[str, int]) -> None:
        """Forget the least recently used until so many pages are free, or nothing is left to forget."""
        while self._known and any(self._pool.pages[sight].free < count for sight, count in needed.items()):
            self._forget_oldest()

    def _make_room(self, size: int, copied: Mapping[str, int]) -> bool:
        while self._known and self.bytes + size > self._budget:
            self._forget_oldest()
        return all(self._pool.pages[sight].free >= count for sight, count in copied.items())

    def _forget_oldest(self) -> None:
        _, snapshot = self._known.popitem(last=False)
        self.bytes -= snapshot.bytes
        for sight, pages in snapshot.pages.items():
            for page in pages:
                if page is not None:
                    self._pool.pages[sight].give_back(page)

    def _whole(self, tokens: int, sight: str) -> int:
        """How many of a sequence's first pages are full, so that they can be shared; those of a window cannot, it gives them away."""
        return 0 if self._pool.is_window(sight) else (tokens + self._pool.meta) // self._pool.page

    def _copied(self, tokens: int, sight: str, pages: Sequence[int | None]) -> int:
        return sum(page is not None for page in pages[self._whole(tokens, sight) :])


def _keys(ids: Sequence[int], lengths: Iterable[int], adapter: str | None) -> list[bytes]:
    """A digest of each of these prefixes, as the adapter sees them; lengths ascend."""
    key = b"" if adapter is None else hashlib.blake2b(adapter.encode()).digest()
    data, digest, done, keys = np.asarray(ids, dtype="<i8").tobytes(), hashlib.blake2b(digest_size=16, key=key), 0, []
    for length in lengths:
        digest.update(data[8 * done : 8 * length])
        done = length
        keys.append(digest.copy().digest())
    return keys
