"""How many sequences a number of bytes can hold: slots for states, pages for caches."""

from amaru.errors import CapacityError
from amaru.models.decoder import Decoder
from amaru.models.state import PAGE
from amaru.serve.state_pool import Room, dtype_of, pages_needed, reach, unit_bytes

TYPICAL = 2048  # tokens of a sequence when slots and pages are weighed against each other


def room_for(decoder: Decoder, memory: int, most: int, capacity: int, chunk: int, prefix: int = 0, states: int = 1) -> Room:
    """`room_for(decoder, 2 * 2**30, 32, 8192, 2048)`: up to `most` slots, and as many pages as the rest of `memory` gives.

    There are slots for sequences of typical length, and never more pages than `most` sequences of `capacity` tokens could fill.
    `prefix` bytes are for remembered states: half of them may be pages that stay when the sequence that wrote them is gone.
    Of each sequence `states` exist at once: two where a guess may have to be taken back.
    Raises `CapacityError` when not even one short sequence would fit.
    """
    slot, page = unit_bytes(decoder.config, dtype_of(decoder), decoder.narrow_kv, decoder.state_dtype)
    slot *= states
    far, meta = reach(decoder.config), decoder.config.meta_tokens

    def pages(tokens: int) -> dict[str, int]:
        return {sight: pages_needed(seen, tokens + meta, chunk, PAGE) for sight, seen in far.items()}

    def held(tokens: int) -> int:
        return slot + sum(page[sight] * count for sight, count in pages(tokens).items())

    if memory < held(1):
        raise CapacityError(f"The engine has {memory:,} bytes for states and caches; the shortest sequence needs {held(1):,}.")
    slots = max(1, min(most, memory // held(min(TYPICAL, capacity))))
    window = {sight: slots * count for sight, count in pages(capacity).items() if far[sight] is not None}
    left = memory - slots * slot - sum(page[sight] * count for sight, count in window.items())
    full = {sight: slots * count for sight, count in pages(capacity).items() if far[sight] is None}
    growing = {sight: max(1, min(count, left // max(1, page[sight]))) for sight, count in full.items()}
    remembered = min(prefix // 2 // max(1, sum(page.values())), prefix // max(1, slot) * max(pages(capacity).values()))
    return Room(slots, {sight: count + remembered for sight, count in (window | growing).items()})
