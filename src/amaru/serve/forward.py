"""One pass of the model over what each sequence brings to a step."""

from collections.abc import Sequence

import torch
from torch import Tensor

from amaru.models.decoder import Decoder
from amaru.models.state import DecoderState
from amaru.serve.recorded import Passed, again, anew
from amaru.serve.work import Work, batch_of

__all__ = ["CHUNK_TOKENS", "Work", "advance", "hidden_after", "hidden_and_logits"]

CHUNK_TOKENS = 2048  # a step's tokens


@torch.inference_mode()
def hidden_after(decoder: Decoder, state: DecoderState, work: list[Work]) -> Tensor:
    """[T, hidden] for the tokens of everyone, in the order of `work`."""
    return _passed(decoder, state, work).hidden


@torch.inference_mode()
def hidden_and_logits(decoder: Decoder, state: DecoderState, work: list[Work], read: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Also the logits [R, vocab] after the last tokens of each, so many as `read` says."""
    hidden, scores = _passed(decoder, state, work)
    if scores is not None:
        return hidden, scores.to(torch.promote_types(scores.dtype, torch.float32), copy=True)
    each = hidden.split([len(item.ids) for item in work])
    return hidden, decoder.logits(torch.cat([rows[-count:] for rows, count in zip(each, read, strict=True)]))


def advance(decoder: Decoder, state: DecoderState, work: list[Work]) -> Tensor:
    """[S, vocab]: the logits after the last token of each."""
    return hidden_and_logits(decoder, state, work, [1] * len(work))[1]


def _passed(decoder: Decoder, state: DecoderState, work: list[Work]) -> Passed:
    if passed := again(decoder, state, work):
        return passed
    x, batch, _ = decoder.begin(batch_of(work).to(decoder.embedding.weight.device), state)
    return anew(decoder, state, work, x, batch)
