"""One pass of the model over what each sequence brings to a step."""

from typing import NamedTuple

import torch
from torch import Tensor

from amaru.models.decoder import Decoder
from amaru.models.state import DecoderState
from amaru.nn.batch import Batch

CHUNK_TOKENS = 2048  # a step's tokens


class Work(NamedTuple):
    """The tokens that one sequence brings to a step: they follow `start` earlier ones in the state of `slot`."""

    ids: list[int]
    start: int
    slot: int


@torch.inference_mode()
def hidden_after(decoder: Decoder, state: DecoderState, work: list[Work]) -> Tensor:
    """[T, hidden] for the tokens of everyone, in the order of `work`."""
    batch = Batch.of(
        [torch.tensor(item.ids) for item in work], starts=[item.start for item in work], slots=[item.slot for item in work]
    ).to(decoder.embedding.weight.device)
    return decoder.hidden_states(batch, state)


@torch.inference_mode()
def advance(decoder: Decoder, state: DecoderState, work: list[Work]) -> Tensor:
    """[S, vocab]: the logits after the last token of each."""
    hidden = hidden_after(decoder, state, work)
    ends = torch.tensor([len(item.ids) for item in work], device=hidden.device).cumsum(0)
    return decoder.logits(hidden[ends - 1])
