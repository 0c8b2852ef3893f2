"""What sequences bring to a pass of the model."""

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch

from amaru.errors import ConfigError
from amaru.nn.batch import Batch


class Work(NamedTuple):
    """The tokens that one sequence brings to a step: they follow `start` earlier ones in the state of `slot`."""

    ids: list[int]
    start: int
    slot: int


def batch_of(work: Sequence[Work]) -> Batch:
    if empty := [item.slot for item in work if not item.ids]:
        raise ConfigError(f"The sequence in slot {empty[0]} brings no token to the step; leave it out.")
    return Batch(
        ids=torch.tensor([token for item in work for token in item.ids]),
        positions=torch.tensor([place for item in work for place in range(item.start, item.start + len(item.ids))]),
        cu_seqlens=torch.tensor([0, *accumulate(len(item.ids) for item in work)]),
        slots=torch.tensor([item.slot for item in work]),
    )
