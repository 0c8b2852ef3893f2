"""What a model remembers of running sequences: fixed states in slots, keys and values in pages."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Optional

import torch
from torch import Tensor

PAGE = 64  # places
CACHES = ("keys", "values", "keys_scales", "values_scales")  # the latter where keys and values are held in 8 bits


@dataclass(frozen=True, eq=False)
class DecoderState:
    """`decoder.new_state(slots=8, capacity=4096)`: row i of every table and fixed state belongs to the sequence in slot i.

    layers    by layer its tensors by name: fixed states [slots, ...], caches [pages, page, ...]; empty for a layer without state
    sights    by layer which places its cache keeps (`LayerConfig.sight`)
    tables    by sight: [slots, n] int64, the pages of each sequence in the order of its places
    page      places that a page holds
    meta      the state of one sequence that has seen the meta tokens and nothing else: where every sequence begins
    """

    layers: list[dict[str, Tensor]]
    sights: tuple[str, ...]
    tables: Mapping[str, Tensor]
    page: int
    meta: Optional["DecoderState"] = None

    @property
    def bytes(self) -> int:
        """Of states and caches."""
        held = sum(tensor.nbytes for layer in self.layers for tensor in layer.values())
        return held + (self.meta.bytes if self.meta else 0)

    def pages(self, slots: Tensor, places: int) -> dict[str, Tensor]:
        """By sight [S, n]: the pages of these slots' first `places` places."""
        return {sight: table[slots, : -(-places // self.page)] for sight, table in self.tables.items()}

    def begin(self, slots: Tensor) -> None:
        """Set these rows to what the meta tokens leave; without meta tokens nothing is needed, a first position says it all."""
        if self.meta is None or not len(slots):
            return
        for layer, sight, start in zip(self.layers, self.sights, self.meta.layers, strict=True):
            for name, held in layer.items():
                if name in CACHES:
                    self._begin_cache(held, self.tables[sight][slots], start[name].flatten(0, 1))
                else:
                    held[slots] = start[name][0]

    @staticmethod
    def _begin_cache(held: Tensor, pages: Tensor, start: Tensor) -> None:
        """The first places of every sequence become `start` [places, ...]."""
        places = torch.arange(len(start), device=pages.device)
        held[pages[:, places // held.shape[1]], places % held.shape[1]] = start

    def reorder(self, rows: Tensor) -> None:
        """Slot i becomes a copy of what slot `rows[i]` was."""
        for layer, sight in zip(self.layers, self.sights, strict=True):
            for name, held in layer.items():
                if name in CACHES:
                    held[self.tables[sight]] = held[self.tables[sight][rows]]
                else:
                    held.copy_(held[rows])

    def take_over(self, smaller: "DecoderState") -> None:
        """Slot i becomes a copy of slot i of a state with as many slots and less room."""
        for layer, sight, old in zip(self.layers, self.sights, smaller.layers, strict=True):
            for name, held in layer.items():
                if name in CACHES:
                    places = old[name][smaller.tables[sight]].flatten(1, 2)
                    room = held[self.tables[sight]].flatten(1, 2)
                    room[:, : places.shape[1]] = places
                    held[self.tables[sight]] = room.unflatten(1, (-1, held.shape[1]))
                else:
                    held.copy_(old[name])
