"""A small hybrid model in fp64, and a batch for it."""

import torch

from amaru.models import Decoder, DecoderConfig
from amaru.models.pattern import layers_from_pattern
from amaru.nn import MLP, Attention, Batch, Mamba2

SMALL = {
    "M": Mamba2(heads=6, channels=4, groups=2, state=5, chunk_size=8),
    "*": Attention(query_heads=4, kv_heads=2, channels=6),
    "-": MLP(ffn=11),
}


def small_config(pattern="M-*M-", tied=False):
    return DecoderConfig(vocab=31, hidden=20, layers=layers_from_pattern(pattern, SMALL), tied=tied)


def small_decoder(pattern="M-*M-", seed=0, tied=False):
    """Every parameter is drawn, those that usually start at one as well, so that none can be mixed up unseen."""
    decoder = Decoder(small_config(pattern, tied)).initialise(seed).double()
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for weight in decoder.parameters():
            weight += 0.3 * torch.randn(weight.shape, generator=generator, dtype=torch.float64)
    return decoder


def small_batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Batch.of([torch.randint(31, (n,), generator=generator) for n in (9, 14)])
