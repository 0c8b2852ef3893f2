"""A small hybrid model in fp64, and the masked twin of a cut: written out by hand, without layouts."""

import copy
import math

import numpy as np
import torch

from amaru.compress import Cut
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


def flags(selection, *shape):
    """True for each kept index [*parents, axis]."""
    kept = np.zeros(shape, dtype=bool)
    if selection is None:
        return ~kept
    np.put_along_axis(kept, np.broadcast_to(selection.indices, (*shape[:-1], selection.kept)), True, axis=-1)
    return kept


def masked(decoder: Decoder, cut: Cut) -> Decoder:
    """The parent with everything dropped set to zero, and every mean of squares taken over what is kept."""
    twin = copy.deepcopy(decoder)
    hidden = flags(cut.network.get("hidden"), twin.config.hidden)
    zero(twin.embedding.weight, None, hidden)
    zero(twin.head.weight, None, hidden)
    for index, layer in enumerate(twin.layers):
        divide_by_kept(layer.norm, "eps", layer.norm.weight, hidden.mean())
        config, mixer, selected = layer.mixer.config, layer.mixer, cut.within.get(index, {})
        writes = hidden & (index in cut.layers)
        if isinstance(config, Mamba2):
            mask_mamba(mixer, config, selected, hidden, writes)
        elif isinstance(config, Attention):
            mask_attention(mixer, config, selected, hidden, writes)
        else:
            ffn = flags(selected.get("ffn"), config.ffn)
            zero(mixer.up_proj.weight, ffn, hidden)
            zero(mixer.down_proj.weight, writes, ffn)
    divide_by_kept(twin.norm, "eps", twin.norm.weight, hidden.mean())
    return twin


def mask_mamba(mixer, config, selected, hidden, writes):
    groups, heads = config.groups, config.heads // config.groups
    group = flags(selected.get("group"), groups)
    head = flags(selected.get("head"), groups, heads) & group[:, None]
    channel = flags(selected.get("channel"), groups, heads, config.channels) & head[:, :, None]
    state = flags(selected.get("state"), groups, config.state) & group[:, None]
    inner, bc = channel.ravel(), np.concatenate([state.ravel(), state.ravel()])
    zero(mixer.in_proj.weight, np.concatenate([inner, inner, bc, head.ravel()]), hidden)
    zero(mixer.conv1d.weight, np.concatenate([inner, bc]), None)
    zero(mixer.conv1d.bias, np.concatenate([inner, bc]))
    zero(mixer.out_proj.weight, writes, inner)
    divide_by_kept(mixer, "norm_eps", mixer.norm.weight, channel[group].mean())


def mask_attention(mixer, config, selected, hidden, writes):
    groups, queries, width = config.kv_heads, config.query_heads // config.kv_heads, config.channels
    group = flags(selected.get("kv_group"), groups)
    query = flags(selected.get("query"), groups, queries) & group[:, None]
    qk = flags(selected.get("qk_channel"), groups, width) & group[:, None]
    v = flags(selected.get("v_channel"), groups, width) & group[:, None]
    zero(mixer.q_proj.weight, (query[:, :, None] & qk[:, None]).ravel(), hidden)
    zero(mixer.k_proj.weight, qk.ravel(), hidden)
    zero(mixer.v_proj.weight, v.ravel(), hidden)
    zero(mixer.o_proj.weight, writes, (query[:, :, None] & v[:, None]).ravel())
    mixer.scale = 1 / math.sqrt(qk.sum() / group.sum())


@torch.no_grad()
def zero(weight, rows, columns=None):
    if rows is not None:
        weight[torch.tensor(~rows)] = 0
    if columns is not None:
        weight[:, torch.tensor(~columns)] = 0


@torch.no_grad()
def divide_by_kept(owner, name, weight, share):
    """x / sqrt(sum / kept + eps), said by a norm that divides by all: sqrt(share) x / sqrt(sum / all + share eps)."""
    setattr(owner, name, getattr(owner, name) * float(share))
    weight *= math.sqrt(share)
