"""More rows for a model's embedding and head, when its tokenizer has learned new tokens."""

from dataclasses import replace

import torch
from torch import Tensor

from amaru.errors import ConfigError
from amaru.models.decoder import Decoder


@torch.no_grad()
def grown(decoder: Decoder, vocab: int) -> Decoder:
    """The same model with `vocab` tokens; each new row is the mean of those that were there, as likely as the average token.

    >>> grown(decoder, tokenizer.vocab_size).config.vocab

    Raises `ConfigError` when it has more already: rows are never taken away.
    """
    before = decoder.config.vocab
    if vocab < before:
        raise ConfigError(f"The model has {before} tokens; it can be given more, but not {vocab}.")
    larger = Decoder(replace(decoder.config, vocab=vocab)).to(decoder.embedding.weight.dtype)
    larger.compute_dtype = decoder.compute_dtype
    found = dict(decoder.named_parameters())
    for name, parameter in larger.named_parameters():
        old = found[name]
        parameter.copy_(old if old.shape == parameter.shape else _with_means(old, vocab))
    return larger


def _with_means(rows: Tensor, count: int) -> Tensor:
    mean = rows.double().mean(0, keepdim=True).to(rows.dtype)
    return torch.cat([rows, mean.expand(count - len(rows), -1)])
