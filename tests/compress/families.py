"""A tiny model of every family in fp64, of odd widths, in which every parameter is drawn so that none can be mixed up unseen."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch

from amaru.axes import Axes, Axis, Selections, keep
from amaru.compress import Cut
from amaru.compress.surgery import bound_axes
from amaru.models import Decoder, DecoderConfig
from amaru.models.pattern import layers_from_pattern
from amaru.nn import MLP, Attention, Batch, Mamba2, MoE
from amaru.nn.hybrid_head import HybridHead
from amaru.nn.rope import Rope

VOCAB = 17
MAMBA = Mamba2(heads=9, channels=5, groups=3, state=7, chunk_size=4)
OWNER = HybridHead(query_heads=6, kv_heads=2, qk_channels=4, v_channels=5, state=3, rank=5, rope=Rope())
NARROW = replace(OWNER, window=3, sinks=2)
EXPERTS = MoE(experts=9, top_k=2, ffn=5, shared_ffn=7, groups=3, top_groups=2, scale=1.5, latent=6)
GATED = MLP(ffn=11, gated=True, activation="silu")

FAMILIES = {
    "nemotron_h": DecoderConfig(
        vocab=VOCAB,
        hidden=13,
        layers=layers_from_pattern("M-*M", {"M": MAMBA, "-": MLP(ffn=11), "*": Attention(query_heads=9, kv_heads=3, channels=5)}),
    ),
    "nemotron4": DecoderConfig(
        vocab=VOCAB,
        hidden=15,
        layers=(Attention(query_heads=6, kv_heads=2, channels=8, rope=Rope(fraction=0.5)), MLP(ffn=11)) * 2,
        norm="layernorm1p",
    ),
    "llama": DecoderConfig(
        vocab=VOCAB, hidden=13, layers=(Attention(query_heads=6, kv_heads=3, channels=6, rope=Rope(base=500.0)), GATED) * 2, tied=True
    ),
    "qwen": DecoderConfig(
        vocab=VOCAB, hidden=13, layers=(Attention(query_heads=9, kv_heads=3, channels=4, rope=Rope(), bias=True), GATED), norm_eps=1e-6
    ),
    "hymba": DecoderConfig(
        vocab=VOCAB,
        hidden=13,
        layers=(OWNER, GATED, replace(OWNER, shares_kv=True), GATED, NARROW, replace(NARROW, shares_kv=True)),
        tied=True,
        meta_tokens=2,
        norm_eps=1e-6,
    ),
    "moe": DecoderConfig(vocab=VOCAB, hidden=13, layers=(MAMBA, EXPERTS, replace(EXPERTS, experts=5, groups=1, top_groups=1, latent=None))),
}


def family_decoder(name: str, seed: int = 0) -> Decoder:
    decoder = Decoder(FAMILIES[name]).initialise(seed).double()
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for weight in decoder.parameters():
            weight += 0.3 * torch.randn(weight.shape, generator=generator, dtype=torch.float64)
    return decoder


def family_texts(seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(VOCAB, (length,), generator=generator) for length in (7, 5)]


def family_batch(seed: int = 0) -> Batch:
    return Batch.of(family_texts(seed))


def free_axes(config: DecoderConfig) -> list[str]:
    """The axes that the declarations allow to be permuted and narrowed, of the network and of all layers."""
    axes = [*config.axes().values(), *(axis for layer in config.layers for axis in layer.axes().values())]
    return list(dict.fromkeys(axis.name for axis in axes if not axis.fixed and axis.size > 1))


def random_cut(config: DecoderConfig, kept: Callable[[Axis], int], names: Sequence[str], seed: int = 0, drop: Sequence[int] = ()) -> Cut:
    """Of each of these axes `kept(axis)` indices in random order, of its own under each parent; alike where a cache is shared."""
    rng, layers = np.random.default_rng(seed), tuple(index for index in range(len(config.layers)) if index not in drop)
    within = {index: _random(config.layers[index].axes(), kept, names, rng) for index in layers}
    for reader, owner in config.kv_sources().items():
        if reader in within and owner is not None:
            within[reader] |= {name: within[owner][name] for name in bound_axes(config.layers[owner]) if name in within[owner]}
    network = _random(config.axes(), kept, names, rng)
    return Cut(layers, network, {index: chosen for index, chosen in within.items() if chosen})


def _random(axes: Axes, kept: Callable[[Axis], int], names: Sequence[str], rng: np.random.Generator) -> Selections:
    chosen = {}
    for name in names:
        if name in axes and not axes[name].fixed:
            outer = tuple(axes[parent].size for parent in axes[name].parents)
            lists = [_drawn(rng, axes[name].size, kept(axes[name])) for _ in range(int(np.prod(outer)))]
            chosen[name] = keep(axes[name], np.reshape(lists, (*outer, -1)), axes)
    return chosen


def _drawn(rng: np.random.Generator, size: int, count: int) -> np.ndarray:
    """`count` of `size` indices in random order, and never all of them in their old order."""
    order = rng.permutation(size)
    return (np.roll(order, 1) if np.array_equal(order, np.arange(size)) else order)[:count]
