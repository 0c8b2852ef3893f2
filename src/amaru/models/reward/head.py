"""The head of a reward model: a linear layer with bias on a decoder's last hidden state, in place of its output layer."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from amaru.models.decoder import Decoder
from amaru.nn.batch import Batch
from amaru.nn.linear import Linear

NAME = "reward"  # of the module under a decoder, so that checkpoints and the optimizer know it


@torch.no_grad()
def give_head(decoder: Decoder, start: Sequence[float]) -> Decoder:
    """Put a head on a decoder that says `start` [attributes] of every answer: weights of 0, and these as bias; in at least fp32.

    >>> give_head(decoder, [3.1, 3.2, 3.7, 1.9, 1.8])

    Starting at the mean of the labels, all that is learned is what tells answers apart.
    """
    dtype = torch.promote_types(decoder.embedding.weight.dtype, torch.float32)
    head = Linear(len(start), decoder.config.hidden, bias=True).to(decoder.embedding.weight.device, dtype)
    head.weight.zero_()
    head_bias(head).copy_(torch.tensor(start, dtype=dtype))
    decoder.add_module(NAME, head)
    return decoder


def head_of(decoder: Decoder) -> Linear:
    return cast(Linear, getattr(decoder, NAME))


def head_bias(head: Linear) -> Tensor:
    return cast(Tensor, head.bias)


def rewards(decoder: Decoder, batch: Batch) -> Tensor:
    """[sequences, attributes] in at least fp32, read at the last token of each sequence of a batch without state."""
    hidden = decoder.hidden_states(batch)[batch.cu_seqlens[1:] - 1]
    return head_of(decoder)(hidden.to(torch.promote_types(hidden.dtype, head_of(decoder).weight.dtype)))
