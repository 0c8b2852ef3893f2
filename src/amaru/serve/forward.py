"""One pass of the model over what each sequence brings to a step."""

from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from amaru.errors import ConfigError
from amaru.models.decoder import Decoder
from amaru.models.state import DecoderState
from amaru.nn.batch import Batch
from amaru.serve.recorded import through

CHUNK_TOKENS = 2048  # a step's tokens


class Work(NamedTuple):
    """The tokens that one sequence brings to a step: they follow `start` earlier ones in the state of `slot`."""

    ids: list[int]
    start: int
    slot: int


@torch.inference_mode()
def hidden_after(decoder: Decoder, state: DecoderState, work: list[Work]) -> Tensor:
    """[T, hidden] for the tokens of everyone, in the order of `work`."""
    x, batch, _ = decoder.begin(_batch(work).to(decoder.embedding.weight.device), state)
    return through(decoder, state, x, batch)


def _batch(work: list[Work]) -> Batch:
    if empty := [item.slot for item in work if not item.ids]:
        raise ConfigError(f"The sequence in slot {empty[0]} brings no token to the step; leave it out.")
    return Batch(
        ids=torch.tensor([token for item in work for token in item.ids]),
        positions=torch.tensor([place for item in work for place in range(item.start, item.start + len(item.ids))]),
        cu_seqlens=torch.tensor([0, *accumulate(len(item.ids) for item in work)]),
        slots=torch.tensor([item.slot for item in work]),
    )


@torch.inference_mode()
def advance(decoder: Decoder, state: DecoderState, work: list[Work]) -> Tensor:
    """[S, vocab]: the logits after the last token of each."""
    hidden = hidden_after(decoder, state, work)
    ends = torch.tensor([len(item.ids) for item in work], device=hidden.device).cumsum(0)
    return decoder.logits(hidden[ends - 1])
