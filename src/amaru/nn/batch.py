"""The token-major batch: tokens of all sequences one after the other, with their boundaries."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from amaru.errors import ConfigError
from amaru.nn.rope import Rope

Turns = tuple[Tensor, Tensor]  # cosines and sines
FEW = 16  # tokens of one sequence; more are faster through a layer as a whole than step by step


@dataclass(frozen=True, eq=False)
class Batch:
    """What every model takes, in training, prefill and decode alike.

        Batch.of([document, other_document])        # two documents packed, neither sees the other

    ids        [T] int64, tokens of S sequences one after the other; no padding
    positions  [T] int64, the place of each token in its sequence; a sequence that begins at 0 starts from the zero state
    cu_seqlens [S + 1] int64, where each sequence begins, and T; conv, scan and attention never cross these. They stay on the CPU,
               where they are read: asking a GPU for them in every layer would wait for all that it was given
    slots      [S] int64, the row of the state pool that each sequence owns; None in training
    pages      by how far a layer sees (`LayerConfig.sight`), [S, n] int64: the pages of the pool that hold each sequence's
               keys and values; the decoder looks them up from `slots`
    """

    ids: Tensor
    positions: Tensor
    cu_seqlens: Tensor
    slots: Tensor | None = None
    pages: Mapping[str, Tensor] | None = None

    @classmethod
    def of(cls, sequences: Sequence[Tensor], *, starts: Sequence[int] | None = None, slots: Sequence[int] | None = None) -> "Batch":
        """Pack sequences of ids; `starts` are their first positions (0 unless they continue a state).

        Raises `ConfigError` for a sequence without a token: whether it begins or goes on would be read off its neighbour.
        """
        lengths = [len(ids) for ids in sequences]
        if 0 in lengths:
            raise ConfigError(f"Sequence {lengths.index(0)} of {len(lengths)} in a batch has no token; leave it out.")
        first = starts or [0] * len(lengths)
        return cls(
            ids=torch.cat(list(sequences)),
            positions=torch.cat([torch.arange(start, start + n) for start, n in zip(first, lengths, strict=True)]),
            cu_seqlens=torch.tensor([0, *lengths]).cumsum(0),
            slots=None if slots is None else torch.tensor(slots),
        )

    @classmethod
    def padded(cls, ids: Tensor, mask: Tensor, *, starts: Sequence[int] | None = None, slots: Sequence[int] | None = None) -> "Batch":
        """The real tokens of a padded batch: ids and mask [B, L], mask 1 (or True) where a token is real, on either side."""
        return cls.of([row[real.bool()] for row, real in zip(ids, mask, strict=True)], starts=starts, slots=slots)

    def to(self, device: torch.device) -> "Batch":
        """All but the boundaries."""
        names = ("ids", "positions", "slots")
        return replace(self, **{name: held.to(device) for name in names if (held := getattr(self, name)) is not None})

    def shifted(self, count: int) -> "Batch":
        """The same tokens, each `count` places later in its sequence."""
        return replace(self, positions=self.positions + count)

    def prefixed(self, count: int) -> tuple["Batch", Tensor]:
        """`count` more tokens in front of each sequence (their ids are 0), and where the tokens of this batch are then: [T]."""
        sequences = len(self.cu_seqlens) - 1
        more = torch.arange(sequences + 1) * count
        cu_seqlens, device = self.cu_seqlens + more, self.ids.device
        real = (torch.arange(len(self.ids)) + more[1:].repeat_interleave(self.lengths)).to(device)
        ids = self.ids.new_zeros(len(self.ids) + sequences * count).index_copy(0, real, self.ids)
        positions = (torch.arange(len(ids)) - cu_seqlens[:-1].repeat_interleave(cu_seqlens.diff())).to(device)
        positions = positions.index_copy(0, real, self.positions + count)
        return Batch(ids, positions, cu_seqlens, self.slots), real

    # Every layer asks for these, so each is found out once.

    def turns(self, rope: Rope, channels: int, dtype: torch.dtype) -> Turns:
        """What `rope.turns` says of this batch's positions."""
        asked = (rope, channels, dtype)
        if asked not in self.turned:
            self.turned[asked] = rope.turns(self.positions, channels, dtype)
        return self.turned[asked]

    @cached_property
    def turned(self) -> dict[tuple[Rope, int, torch.dtype], Turns]:
        """What `turns` was asked so far."""
        return {}

    @cached_property
    def lengths(self) -> Tensor:
        """[S] tokens of each sequence in this batch, on the CPU."""
        return self.cu_seqlens.diff()

    @cached_property
    def owners(self) -> Tensor:
        """[T] which sequence of the batch each token belongs to."""
        sequences = torch.arange(len(self.cu_seqlens) - 1)
        # torch wakes its threads to repeat anything.
        return (sequences if self.singles == len(sequences) else sequences.repeat_interleave(self.lengths)).to(self.ids.device)

    @cached_property
    def ends(self) -> Tensor:
        """[S] how many places each sequence has, this batch included."""
        return self.positions[self.cu_seqlens[1:] - 1] + 1

    @cached_property
    def fresh(self) -> Tensor:
        """[S] bool: the sequence begins here, so its state is zero whatever its slot held before."""
        return self.positions[self.cu_seqlens[:-1]] == 0

    @cached_property
    def singles(self) -> int:
        """How many sequences in front bring one token each: those that decode, where they come first."""
        lengths = self.lengths.tolist()
        return next((index for index, length in enumerate(lengths) if length != 1), len(lengths))

    @cached_property
    def short(self) -> int:
        """How many sequences in front bring at most `FEW` tokens each: those that decode, and verify guesses."""
        lengths = self.lengths.tolist()
        return next((index for index, length in enumerate(lengths) if length > FEW), len(lengths))

    @cached_property
    def shorter(self) -> "Batch":
        """Those sequences."""
        return self._part(0, self.short)

    @cached_property
    def longer(self) -> "Batch":
        """The sequences behind them."""
        return self._part(self.short, len(self.lengths))

    def _part(self, first: int, stop: int) -> "Batch":
        begin, end = int(self.cu_seqlens[first]), int(self.cu_seqlens[stop])
        slots = None if self.slots is None else self.slots[first:stop]
        pages = None if self.pages is None else {sight: table[first:stop] for sight, table in self.pages.items()}
        return Batch(self.ids[begin:end], self.positions[begin:end], self.cu_seqlens[first : stop + 1] - begin, slots, pages)
