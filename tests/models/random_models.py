"""Small random models for tests: odd sizes, and no parameter that happens to be zero or one."""

import random

import torch
from torch import Tensor

from amaru.models import Decoder, DecoderConfig
from amaru.models.pattern import layers_from_pattern
from amaru.nn import MLP, Attention, Mamba2
from amaru.nn.layer import LayerConfig

PATTERNS = ("MM-*-M", "M--*-M-", "-M**M*-", "M-M*-M-", "*M-", "MMM*--", "-", "*", "M")


def random_config(seed: int, pattern: str | None = None, *, tied: bool = False) -> DecoderConfig:
    """Widths that no implementation can guess from one another: inner is not 2 x hidden, queries are not as wide as hidden."""
    draw = random.Random(seed)
    groups = draw.choice((1, 2, 3, 4))
    kv_heads = draw.choice((1, 2, 3))
    layers: dict[str, LayerConfig] = {
        "M": Mamba2(
            heads=groups * draw.choice((1, 3, 5)),
            channels=draw.choice((3, 5, 6)),
            groups=groups,
            state=draw.choice((7, 12)),
            taps=draw.choice((2, 4)),
            chunk_size=draw.choice((8, 16, 31)),
        ),
        "*": Attention(query_heads=kv_heads * draw.choice((1, 2, 3)), kv_heads=kv_heads, channels=draw.choice((4, 10))),
        "-": MLP(ffn=draw.choice((9, 33))),
    }
    return DecoderConfig(
        vocab=draw.choice((61, 97)),
        hidden=draw.choice((14, 21, 26)),
        layers=layers_from_pattern(pattern or draw.choice(PATTERNS), layers),  # type: ignore[arg-type]
        norm_eps=draw.choice((1e-5, 1e-3)),
        tied=tied,
    )


@torch.no_grad()
def random_model(config: DecoderConfig, seed: int = 0, dtype: torch.dtype = torch.float32) -> Decoder:
    """Every parameter drawn; dt_bias from -10 to 1, so that some time steps are far below 1e-3."""
    generator = torch.Generator().manual_seed(seed)
    decoder = Decoder(config)
    for name, parameter in decoder.named_parameters():
        leaf = name.rsplit(".", 1)[-1]
        if leaf == "dt_bias":
            parameter.uniform_(-10, 1, generator=generator)
        elif leaf == "A_log":
            parameter.uniform_(-1, 2.5, generator=generator)
        elif "norm" in name:
            parameter.uniform_(0.5, 1.5, generator=generator)
        else:
            parameter.normal_(0, 1 / parameter.shape[-1] ** 0.5 if parameter.ndim > 1 else 0.5, generator=generator)
    return decoder.to(dtype)


def random_ids(vocab: int, *lengths: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(vocab, (length,), generator=generator) for length in lengths]
