"""Models that two and four processes can share: one of each divisible kind of layer, widths that cannot be guessed from one another."""

import torch
from tests.models.random_models import random_model

from amaru.models import Decoder, DecoderConfig
from amaru.nn import MLP, Attention, Mamba2, MoE
from amaru.nn.rope import Rope

VOCAB = 61  # odd, so that the last process holds less
NEMOTRON_H = (
    Mamba2(heads=12, channels=3, groups=4, state=5, chunk_size=8),
    MLP(ffn=20),
    Attention(query_heads=8, kv_heads=4, channels=6),
    Mamba2(heads=4, channels=5, groups=4, state=7, taps=2),
)
STACKS = {
    "nemotron_h": DecoderConfig(vocab=VOCAB, hidden=14, layers=NEMOTRON_H),
    "experts": DecoderConfig(
        vocab=VOCAB,
        hidden=14,
        layers=(
            NEMOTRON_H[0],
            MoE(experts=6, top_k=2, ffn=8, shared_ffn=12, groups=2),
            MoE(experts=5, top_k=2, ffn=4, shared_ffn=4, latent=6),
        ),
    ),
    "qwen2": DecoderConfig(
        vocab=VOCAB,
        hidden=16,
        tied=True,
        layers=(Attention(query_heads=4, kv_heads=4, channels=4, rope=Rope(), bias=True), MLP(ffn=12, gated=True, activation="silu")),
    ),
    "nemotron4": DecoderConfig(
        vocab=VOCAB,
        hidden=16,
        norm="layernorm1p",
        layers=(Attention(query_heads=4, kv_heads=4, channels=8, rope=Rope(fraction=0.5)), MLP(ffn=24)),
    ),
}


def model(name: str, dtype: torch.dtype = torch.float64) -> Decoder:
    return random_model(STACKS[name], seed=1, dtype=dtype)
