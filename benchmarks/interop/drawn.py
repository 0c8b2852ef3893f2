"""Small models with drawn widths and weights, no parameter at its usual start: what a trained one alone would not show."""

import random
from dataclasses import replace

import torch

from amaru.models import Decoder, DecoderConfig
from amaru.models.pattern import layers_from_pattern
from amaru.nn import MLP, Attention, Mamba2
from amaru.nn.moe import MoE

PATTERNS = ("M-M*-M-", "MM-*-M*-", "M*M--M-")


def even(seed: int) -> DecoderConfig:
    """Nemotron-H with one width for each kind of layer; attention channels as every engine takes them."""
    draw = random.Random(seed)
    groups, kv_heads = draw.choice((1, 2, 3)), draw.choice((1, 2))
    layers = {
        "M": Mamba2(heads=groups * draw.choice((2, 3)), channels=draw.choice((8, 24, 40)), groups=groups, state=draw.choice((16, 40, 64))),
        "*": Attention(query_heads=kv_heads * draw.choice((1, 3)), kv_heads=kv_heads, channels=draw.choice((32, 64))),
        "-": MLP(ffn=draw.choice((72, 200))),
    }
    stack = layers_from_pattern(draw.choice(PATTERNS), layers)
    return DecoderConfig(vocab=draw.choice((500, 777)), hidden=draw.choice((96, 160)), layers=stack)  # type: ignore[arg-type]


def uneven(seed: int) -> DecoderConfig:
    """The same with heads, channels, states and feed-forward widths that differ from layer to layer."""
    draw, config = random.Random(seed), partly(seed)

    def other(layer: object) -> object:
        if not isinstance(layer, Mamba2):
            return layer
        heads = layer.groups * draw.choice((1, 2, 3))
        return replace(layer, heads=heads, channels=draw.choice((8, 16)), state=draw.choice((8, 16)))

    return replace(config, layers=tuple(other(layer) for layer in config.layers))  # type: ignore[arg-type]


def partly(seed: int) -> DecoderConfig:
    """Only feed-forward widths and query heads differ: what GGUF can say by itself."""
    draw, config = random.Random(seed), even(seed)

    def other(layer: object) -> object:
        match layer:
            case Attention():
                return replace(layer, query_heads=layer.kv_heads * draw.choice((1, 2, 3)))
            case MLP():
                return replace(layer, ffn=draw.choice((40, 96, 136)))
        return layer

    return replace(config, layers=tuple(other(layer) for layer in config.layers))  # type: ignore[arg-type]


def experts(seed: int) -> DecoderConfig:
    """Nemotron-3: a mixture of experts in the place of every MLP, in groups for some seeds, behind a latent projection for others."""
    draw, config = random.Random(seed), even(seed)
    groups = draw.choice((1, 2))
    moe = MoE(
        experts=8,
        top_k=draw.choice((2, 3)),
        ffn=draw.choice((40, 72)),
        shared_ffn=draw.choice((96, 136)),
        groups=groups,
        top_groups=1,
        scale=2.5,
        latent=draw.choice((None, 48)),
    )
    return replace(config, layers=tuple(moe if isinstance(layer, MLP) else layer for layer in config.layers))  # type: ignore[arg-type]


@torch.no_grad()
def drawn(config: DecoderConfig, seed: int) -> Decoder:
    """Weights that give logits some units apart, and norms, D and biases away from one and zero."""
    decoder = Decoder(config).initialise(seed)
    generator = torch.Generator().manual_seed(seed + 1)
    for name, parameter in decoder.named_parameters():
        if parameter.ndim == 1 and not name.endswith("A_log"):
            parameter.add_(torch.empty_like(parameter).uniform_(-0.4, 0.4, generator=generator))
        elif name.endswith("proj.weight"):
            parameter.mul_(2)
    decoder.head.weight.mul_(4)
    return decoder
