"""Small random models of every family: odd widths, no two alike, and no parameter that happens to be zero or one."""

import random
from collections.abc import Callable

import torch
from tests.models.oracles import hymba as hymba_oracle
from torch import Tensor

from amaru.models import Decoder, DecoderConfig
from amaru.models.families import hymba
from amaru.models.pattern import layers_from_pattern
from amaru.nn import MLP, Attention, Mamba2
from amaru.nn.hybrid_head import HybridHead
from amaru.nn.layer import LayerConfig
from amaru.nn.moe import MoE
from amaru.nn.rope import Llama3Scaling, NTKScaling, Rope

PATTERNS = ("MM-*-M", "M--*-M-", "-M**M*-", "M-M*-M-", "*M-", "MMM*--", "-", "*", "M")
EXPERT_PATTERNS = ("ME*E", "E", "MEM*-E", "*EE-")


def random_config(seed: int, pattern: str | None = None, *, tied: bool = False) -> DecoderConfig:
    """A Nemotron-H whose widths cannot be guessed from one another: inner is not 2 x hidden, queries are not as wide as hidden."""
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
        layers=layers_from_pattern(pattern or draw.choice(PATTERNS), layers | {"E": random_moe(seed)}),  # type: ignore[arg-type]
        norm_eps=draw.choice((1e-5, 1e-3)),
        tied=tied,
    )


def random_moe(seed: int) -> MoE:
    draw = random.Random(seed)
    groups = draw.choice((1, 2, 3))
    top_k = draw.choice((1, 2, 3))
    return MoE(
        experts=groups * draw.choice((4, 5)),  # more than a token is sent to, so that the choice matters
        top_k=top_k,
        ffn=draw.choice((5, 9)),
        shared_ffn=draw.choice((7, 11)),
        latent=draw.choice((None, 6)),
        groups=groups,
        top_groups=max(1, groups - 1),
        scale=draw.choice((1.0, 2.5)),
        normalised=top_k > 1 and draw.random() < 0.7,  # one expert's weight, divided by itself, teaches the router nothing
    )


def random_moe_config(seed: int) -> DecoderConfig:
    """Nemotron-3: layers of experts among the others; router groups, latent experts and scaled weights by chance."""
    return random_config(seed, random.Random(seed).choice(EXPERT_PATTERNS))


def random_llama(seed: int) -> DecoderConfig:
    return _dense(seed, gated=True)


def random_qwen2(seed: int) -> DecoderConfig:
    return _dense(seed, gated=True, bias=True)


def random_nemotron4(seed: int) -> DecoderConfig:
    return _dense(seed, gated=False)


def _dense(seed: int, *, gated: bool, bias: bool = False) -> DecoderConfig:
    """Blocks of attention and MLP. hidden is a multiple of the query heads (Llama asks for it), channels are another width."""
    draw = random.Random(f"{gated} {bias} {seed}")
    kv_heads = draw.choice((1, 2, 3))
    query_heads = max(2, kv_heads * draw.choice((1, 2, 3)))
    channels, fraction = draw.choice(((4, 1.0), (10, 1.0)) if gated else ((4, 0.5), (8, 0.75), (12, 0.5), (6, 1.0)))
    scaling = Llama3Scaling(factor=draw.choice((4.0, 8.0)), low=1.0, high=4.0, original=draw.choice((16, 64)))
    rope = Rope(base=draw.choice((500.0, 10000.0)), fraction=fraction, scaling=scaling if gated and not bias and seed % 2 else None)
    block = (
        Attention(query_heads=query_heads, kv_heads=kv_heads, channels=channels, rope=rope, bias=bias),
        MLP(ffn=draw.choice((9, 33)), gated=gated, activation="silu" if gated else "relu2"),
    )
    return DecoderConfig(
        vocab=draw.choice((61, 97)),
        hidden=query_heads * draw.choice((5, 7, 9)),
        layers=block * draw.choice((1, 2, 3)),
        norm_eps=draw.choice((1e-6, 1e-3)),
        tied=seed % 3 == 1,
        norm="rmsnorm" if gated else "layernorm1p",
        max_positions=draw.choice((96, 128)),
    )


def random_hymba(seed: int) -> DecoderConfig:
    return hymba.read_config(hymba_oracle.random_config(seed))


def random_own(seed: int) -> DecoderConfig:
    """Every kind of layer at widths of its own, as only amaru's own config can say; Hymba's heads among the others."""
    draw = random.Random(seed)
    meta = draw.choice((0, 4))
    window, narrower = draw.choice(((8, 5), (6, 6), (None, 7)))
    shape = {"kv_heads": 2, "qk_channels": 4, "v_channels": 3, "state": 5, "rank": 2, "taps": 3, "sinks": meta}
    stretched = Rope(scaling=NTKScaling(factor=2.0, original=32, extended=96))
    hybrids = (
        HybridHead(query_heads=4, window=window, rope=Rope(), **shape),
        HybridHead(query_heads=2, window=narrower, rope=stretched, shares_kv=True, **shape),
    )
    layers: list[LayerConfig] = [
        Mamba2(heads=6, channels=3, groups=2, state=5, chunk_size=8),
        Mamba2(heads=3, channels=4, groups=3, state=7, taps=2, time_step_limit=(0.01, 0.5)),
        Attention(query_heads=2, kv_heads=1, channels=5),
        Attention(query_heads=6, kv_heads=3, channels=8, rope=Rope(fraction=0.5, base=700.0), bias=True),
        MLP(ffn=7),
        MLP(ffn=12, gated=True, activation="silu"),
        random_moe(seed),
    ]
    draw.shuffle(layers)
    layers[2:2], layers[5:5] = hybrids[:1], hybrids[1:]
    norm = draw.choice(("rmsnorm", "layernorm1p"))
    return DecoderConfig(vocab=59, hidden=17, layers=tuple(layers), norm=norm, norm_eps=1e-4, meta_tokens=meta)  # type: ignore[arg-type]


FAMILIES: dict[str, Callable[[int], DecoderConfig]] = {
    "nemotron_h": random_config,
    "nemotron_h with experts": random_moe_config,
    "nemotron": random_nemotron4,
    "llama": random_llama,
    "qwen2": random_qwen2,
    "hymba": random_hymba,
    "amaru": random_own,
}


@torch.no_grad()
def random_model(config: DecoderConfig, seed: int = 0, dtype: torch.dtype = torch.float32) -> Decoder:
    """Every parameter drawn; time steps from far below 1e-3 up, and a correction of the router that changes its choice."""
    generator = torch.Generator().manual_seed(seed)
    decoder = Decoder(config)
    for name, parameter in decoder.named_parameters():
        leaf = name.rsplit(".", 1)[-1]
        if leaf == "dt_bias":
            parameter.uniform_(-10, 1, generator=generator)
        elif leaf == "A_log":
            parameter.uniform_(-1, 2.5, generator=generator)
        elif name.endswith("norm.weight"):
            around_zero = config.norm == "layernorm1p" and "mixer" not in name
            parameter.uniform_(0.5, 1.5, generator=generator).sub_(1.0 if around_zero else 0.0)
        else:
            parameter.normal_(0, 1 / parameter.shape[-1] ** 0.5 if parameter.ndim > 1 else 0.5, generator=generator)
    return decoder.to(dtype)


def random_ids(vocab: int, *lengths: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(vocab, (length,), generator=generator) for length in lengths]
