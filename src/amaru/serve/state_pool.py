"""The state of all running sequences: one row of every layer's state tensors for each."""

import torch

from amaru.models.decoder import Decoder


class StatePool:
    """`StatePool(decoder, slots=8, capacity=4096)`: `take()` a slot, run, `give_back(slot)`.

    A slot needs no clearing: a sequence whose first position is 0 starts from the zero state whatever the row held.
    """

    def __init__(self, decoder: Decoder, slots: int, capacity: int, dtype: torch.dtype | None = None) -> None:
        self.state = decoder.new_state(slots, capacity, dtype)
        self._free = list(reversed(range(slots)))

    @property
    def free(self) -> int:
        return len(self._free)

    @property
    def bytes(self) -> int:
        """What the pool's tensors hold."""
        return self.state.bytes

    def take(self) -> int:
        return self._free.pop()

    def give_back(self, slot: int) -> None:
        assert slot not in self._free, f"slot {slot} is given back twice"
        self._free.append(slot)
