"""The state of all running sequences: a slot for what stays the same size, pages for what grows, within one budget of bytes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from amaru.errors import CapacityError
from amaru.models.decoder import Decoder, DecoderConfig
from amaru.models.state import CACHES, PAGE
from amaru.nn.hybrid_head import HybridHead
from amaru.serve.pages import Pages

Fixed = list[dict[str, Tensor]]  # by layer what one slot holds besides caches


@dataclass(eq=False)
class Lease:
    """What one sequence holds: a slot, and by sight its pages in the order of its places (None: given away behind a window)."""

    slot: int
    pages: dict[str, list[int | None]] = field(default_factory=dict)
    promised: dict[str, int] = field(default_factory=dict)


class Reach(NamedTuple):
    """How far back the layers of one sight see, and the first places that they always see."""

    window: int
    sinks: int


def reach(config: DecoderConfig) -> dict[str, Reach | None]:
    """By sight; None where every place is seen."""
    far: dict[str, Reach | None] = {}
    for layer in config.layers:
        seeing = Reach(layer.window, layer.sinks) if isinstance(layer, HybridHead) and layer.window else None
        before = far.get(layer.sight, seeing)
        far[layer.sight] = None if seeing is None or before is None else Reach(*map(max, seeing, before))
    return far


def pages_needed(far: Reach | None, places: int, chunk: int, page: int) -> int:
    """The most pages that a sequence of so many places holds: all, or those of the sinks, of the window and of a chunk before it,
    each begun anywhere."""
    full = -(-places // page)
    return full if far is None else min(full, -(-far.sinks // page) + -(-(far.window + chunk) // page) + 2)


@dataclass(frozen=True)
class Room:
    """How large a pool is: slots, and pages by sight."""

    slots: int
    pages: Mapping[str, int]


class StatePool:
    """`pool = StatePool(decoder, Room(8, {"all": 512}), capacity=4096)`; `lease = pool.admit(tokens)`; `pool.extend(lease, tokens)`.

    A slot needs no clearing: a sequence whose first position is 0 starts from the zero state whatever the row held.
    """

    def __init__(self, decoder: Decoder, room: Room, capacity: int, dtype: torch.dtype | None = None) -> None:
        self.state = decoder.new_state(room.slots, capacity, dtype, pages=room.pages)
        self.capacity = capacity
        self.meta = decoder.config.meta_tokens
        self.pages = {sight: Pages(count) for sight, count in room.pages.items()}
        self.page = self.state.page
        self._reach = reach(decoder.config)
        self._free = list(reversed(range(room.slots)))
        self.fixed_bytes, self.page_bytes = unit_bytes(decoder.config, dtype or dtype_of(decoder), decoder.narrow_kv, decoder.state_dtype)

    @property
    def free(self) -> int:
        return len(self._free)

    @property
    def bytes(self) -> int:
        """What the pool's tensors hold."""
        return self.state.bytes

    def needed(self, tokens: int, chunk: int) -> dict[str, int]:
        """By sight the most pages that a sequence of `tokens` tokens ever holds, when at most `chunk` come at once."""
        return {sight: pages_needed(far, tokens + self.meta, chunk, self.page) for sight, far in self._reach.items()}

    def fits(self, needed: Mapping[str, int]) -> bool:
        return bool(self._free) and all(count <= self.pages[sight].free for sight, count in needed.items())

    def check(self, tokens: int, chunk: int) -> None:
        """Raise `CapacityError` for a sequence that would not fit even if it ran alone."""
        if tokens > self.capacity:
            raise CapacityError(f"The request may reach {tokens:,} tokens; this engine holds sequences of at most {self.capacity:,}.")
        for sight, count in self.needed(tokens, chunk).items():
            if count > self.pages[sight].count:
                raise CapacityError(
                    f"The request may need {count} cache pages of {self.page} tokens, and the pool has {self.pages[sight].count}; "
                    "ask for fewer tokens, or give the engine more memory."
                )

    def admit(self, needed: Mapping[str, int]) -> Lease:
        """A slot, and the promise of pages, for a sequence that fits."""
        for sight, count in needed.items():
            self.pages[sight].promise(count)
        return Lease(self._free.pop(), {sight: [] for sight in needed}, dict(needed))

    def extend(self, lease: Lease, tokens: int) -> None:
        """Make sure of pages for the first `tokens` tokens, and tell the tables."""
        for sight, held in lease.pages.items():
            new = [self._take(lease, sight) for _ in range(-(-(tokens + self.meta) // self.page) - len(held))]
            if new:  # told at once: on a GPU every write is a launch
                table = self.state.tables[sight]
                table[lease.slot, len(held) : len(held) + len(new)] = torch.tensor(new, device=table.device)
                held += new

    def retract(self, lease: Lease, tokens: int) -> None:
        """The inverse: pages behind the first `tokens` tokens are only promised again."""
        for sight, held in lease.pages.items():
            while (len(held) - 1) * self.page >= tokens + self.meta:
                page = held.pop()
                assert page is not None, "a page behind a window is not behind the text"
                self.pages[sight].give_back(page)
                self.pages[sight].promise(1)
                lease.promised[sight] += 1

    def fixed(self, lease: Lease) -> Fixed:
        """Copies of what the slot holds."""
        return [{name: held[lease.slot].clone() for name, held in layer.items() if name not in CACHES} for layer in self.state.layers]

    def restore(self, lease: Lease, fixed: Fixed) -> None:
        """Put such copies back."""
        for layer, copies in zip(self.state.layers, fixed, strict=True):
            for name, copy in copies.items():
                layer[name][lease.slot] = copy

    def forget(self, lease: Lease, tokens: int) -> None:
        """Give away the pages that no later query sees, `tokens` tokens being computed."""
        for sight, far in self._reach.items():
            if far is None:
                continue
            held = lease.pages[sight]
            for index in range(-(-far.sinks // self.page), max(0, tokens + self.meta - far.window) // self.page):
                if (page := held[index]) is not None:
                    self.pages[sight].give_back(page)
                    self.pages[sight].promise(1)
                    lease.promised[sight] += 1
                    held[index] = None

    def give_back(self, lease: Lease) -> None:
        for sight, held in lease.pages.items():
            for page in held:
                if page is not None:
                    self.pages[sight].give_back(page)
            self.pages[sight].withdraw(lease.promised[sight])
        assert lease.slot not in self._free, f"slot {lease.slot} is given back twice"
        self._free.append(lease.slot)

    def is_window(self, sight: str) -> bool:
        return self._reach[sight] is not None

    def lend(self, lease: Lease, sight: str, whole: int) -> list[int | None]:
        """Pages with what a lease holds now: its first `whole` ones shared, the others copied to free pages."""
        held = lease.pages[sight]
        for page in held[:whole]:
            assert page is not None, "a page behind a window cannot be shared"
            self.pages[sight].share(page)
        return held[:whole] + [None if page is None else self._copy(sight, page, self.pages[sight].take()) for page in held[whole:]]

    def adopt(self, lease: Lease, sight: str, pages: list[int | None], whole: int) -> None:
        """The inverse, for a lease without pages: it shares the first `whole` ones, and copies the others to pages promised to it."""
        for page in pages[:whole]:
            assert page is not None, "a page behind a window cannot be shared"
            self.pages[sight].share(page)
            self.pages[sight].withdraw(1)
            lease.promised[sight] -= 1
        copies = [None if page is None else self._copy(sight, page, self._take(lease, sight)) for page in pages[whole:]]
        lease.pages[sight] = pages[:whole] + copies
        for index, page in enumerate(lease.pages[sight]):
            self.state.tables[sight][lease.slot, index] = 0 if page is None else page

    def _copy(self, sight: str, source: int, target: int) -> int:
        for layer, seen in zip(self.state.layers, self.state.sights, strict=True):
            for name in CACHES:
                if seen == sight and name in layer:
                    layer[name][target] = layer[name][source]
        return target

    def _take(self, lease: Lease, sight: str) -> int:
        lease.promised[sight] -= 1
        return self.pages[sight].take(promised=True)


def unit_bytes(
    config: DecoderConfig, dtype: torch.dtype, narrow: torch.dtype | None = None, state: torch.dtype | None = None
) -> tuple[int, dict[str, int]]:
    """Bytes of a slot, and by sight of a page of `PAGE` places.

    With `narrow` keys and values are of that dtype and have scales; `state` is the dtype of SSM states, None for at least fp32.
    """
    slot, pages = 0, dict.fromkeys((layer.sight for layer in config.layers), 0)
    for layer in config.layers:
        for spec in layer.state_tensors().values():
            kept = (state or torch.promote_types(dtype, torch.float32)) if spec.keep_fp32 else dtype
            slot += spec.layout.numel(layer.axes()) * kept.itemsize
        for spec in layer.cache_tensors().values():
            heads, channels = spec.layout.shape(layer.axes())
            place = channels * dtype.itemsize if narrow is None else channels * narrow.itemsize + torch.bfloat16.itemsize
            pages[layer.sight] += PAGE * heads * place
    return slot, pages


def dtype_of(decoder: Decoder) -> torch.dtype:
    return decoder.compute_dtype or decoder.embedding.weight.dtype


def room_of(decoder: Decoder, count: int, capacity: int, chunk: int) -> Room:
    """`count` sequences of `capacity` tokens each, whatever that takes."""
    places = capacity + decoder.config.meta_tokens
    return Room(count, {sight: count * pages_needed(far, places, chunk, PAGE) for sight, far in reach(decoder.config).items()})
