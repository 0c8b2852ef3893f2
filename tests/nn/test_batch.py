"""The batch: what its tokens, places and boundaries are, and what is refused."""

import pytest
import torch

from amaru.errors import ConfigError
from amaru.nn import Batch


def test_sequences_lie_one_after_the_other() -> None:
    batch = Batch.of([torch.tensor([7, 8]), torch.tensor([9]), torch.tensor([4, 5, 6])], starts=[0, 5, 2], slots=[3, 0, 1])
    assert batch.ids.tolist() == [7, 8, 9, 4, 5, 6]
    assert batch.positions.tolist() == [0, 1, 5, 2, 3, 4]
    assert batch.cu_seqlens.tolist() == [0, 2, 3, 6]
    assert batch.fresh.tolist() == [True, False, False]


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
def test_padding_on_either_side_is_dropped(dtype: torch.dtype) -> None:
    ids = torch.tensor([[0, 0, 7], [4, 5, 6], [9, 8, 0]])
    mask = torch.tensor([[0, 0, 1], [1, 1, 1], [1, 1, 0]]).to(dtype)
    padded, packed = Batch.padded(ids, mask), Batch.of([ids[0, 2:], ids[1], ids[2, :2]])
    for name in ("ids", "positions", "cu_seqlens"):
        assert torch.equal(getattr(padded, name), getattr(packed, name))


def test_places_in_front_belong_to_each_sequence() -> None:
    """What meta tokens need: two more places before every sequence, and where its own tokens are then."""
    longer, real = Batch.of([torch.tensor([7, 8]), torch.tensor([9])]).prefixed(2)
    assert longer.cu_seqlens.tolist() == [0, 4, 7]
    assert longer.positions.tolist() == [0, 1, 2, 3, 0, 1, 2]
    assert real.tolist() == [2, 3, 6]
    assert longer.ids[real].tolist() == [7, 8, 9]


@pytest.mark.parametrize("empty", range(3))
def test_a_sequence_without_a_token_is_refused(empty: int) -> None:
    sequences = [torch.arange(0 if place == empty else 3) for place in range(3)]
    with pytest.raises(ConfigError, match=f"Sequence {empty} of 3 in a batch has no token"):
        Batch.of(sequences)
    mask = torch.ones(3, 3)
    mask[empty] = 0
    with pytest.raises(ConfigError, match=f"Sequence {empty} of 3 in a batch has no token"):
        Batch.padded(torch.zeros(3, 3, dtype=torch.int64), mask)


@pytest.mark.parametrize(("lengths", "singles", "short"), [((1, 1, 16, 17, 1), 2, 3), ((16,), 0, 1), ((40, 1), 0, 0), ((1, 1), 2, 2)])
def test_short_sequences_in_front_are_parted_from_the_rest(lengths: tuple[int, ...], singles: int, short: int) -> None:
    sequences = [torch.arange(count) + 100 * index for index, count in enumerate(lengths)]
    starts, slots = [7 * index for index in range(len(lengths))], list(range(9, 9 - len(lengths), -1))
    batch = Batch.of(sequences, starts=starts, slots=slots)
    assert (batch.singles, batch.short) == (singles, short)
    for part, which in ((batch.shorter, slice(short)), (batch.longer, slice(short, None))):
        if not sequences[which]:
            assert not len(part.ids)
            continue
        expected = Batch.of(sequences[which], starts=starts[which], slots=slots[which])
        for name in ("ids", "positions", "cu_seqlens", "slots", "fresh", "ends"):
            assert torch.equal(getattr(part, name), getattr(expected, name)), name
