"""Models and batches of a few dozen tokens."""

import torch

from amaru.data.loader import TrainingBatch
from amaru.models import Decoder, DecoderConfig
from amaru.nn import MLP, Attention, Batch, Mamba2

MAMBA, FFN = Mamba2(heads=4, channels=6, groups=2, state=5), MLP(ffn=20)


def decoder(seed: int, vocab: int = 37, hidden: int = 24, layers: tuple = ()) -> Decoder:
    layers = layers or (MAMBA, FFN, Attention(query_heads=2, kv_heads=1, channels=8))
    return Decoder(DecoderConfig(vocab=vocab, hidden=hidden, layers=layers)).initialise(seed).double()


def batch(lengths: list[int], seed: int = 0, vocab: int = 37) -> TrainingBatch:
    generator = torch.Generator().manual_seed(seed)
    ids = [torch.randint(0, vocab, (length,), generator=generator) for length in lengths]
    packed = Batch.of(ids)
    targets = torch.cat([torch.cat([document[1:], torch.tensor([-100])]) for document in ids])
    return TrainingBatch(packed.ids, targets, packed.positions, packed.cu_seqlens, rows=(0,), documents=("a",), epoch=0)
