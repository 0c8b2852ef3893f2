"""Hymba: every layer has attention and Mamba heads in parallel; meta tokens, windows, keys and values shared between layers."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from amaru.errors import CheckpointError
from amaru.models.decoder import DecoderConfig
from amaru.models.families.blocks import blocks, one_width, stored_blocks
from amaru.models.families.fields import MOST_LAYERS, Fields, wrong
from amaru.models.families.stored import Stored
from amaru.nn.hybrid_head import HybridHead
from amaru.nn.mlp import MLP
from amaru.nn.rope import NTKScaling, Rope

MODEL_TYPES = ("hymba",)
TIES_HEAD = True
LAYERS_PER_BLOCK = 2

NTK_FACTOR = 2.0  # not a field of config.json: the released code has it as a constant


Groups = Sequence[Sequence[int]]


def _shape(hidden: int, ffn: int, count: int, heads: tuple[int, int], global_layers: Sequence[int], groups: Groups) -> DecoderConfig:
    query_heads, kv_heads = heads
    head = HybridHead(
        query_heads=query_heads,
        kv_heads=kv_heads,
        qk_channels=hidden // query_heads,
        v_channels=2 * hidden // query_heads,
        rank=-(-hidden // 16),
        rope=Rope(scaling=NTKScaling(factor=NTK_FACTOR, original=2048, extended=8192)),
    )
    layers = _stack(head, MLP(ffn=ffn, gated=True, activation="silu"), count, 1024, 128, global_layers, groups)
    return DecoderConfig(vocab=32001, hidden=hidden, layers=layers, norm_eps=1e-6, tied=True, meta_tokens=128)


def _stack(
    head: HybridHead, mlp: MLP, count: int, window: int, sinks: int, global_layers: Sequence[int], groups: Groups
) -> tuple[HybridHead | MLP, ...]:
    sharing = {index for group in groups for index in group[1:]}
    local = replace(head, window=window, sinks=sinks)  # type: ignore[type-var]
    heads = (replace(head if index in global_layers else local, shares_kv=index in sharing) for index in range(count))
    return tuple(layer for each in heads for layer in (each, mlp))


def pairs(count: int, global_layers: Sequence[int]) -> list[list[int]]:
    """Window layers between global ones in pairs that share a cache; of an odd run the last three share one."""
    groups: list[list[int]] = []
    for left, right in pairwise(global_layers):
        run = list(range(left + 1, right))
        groups += [run[start : start + 2] for start in range(0, len(run) - 1, 2)]
        if len(run) % 2 and len(run) > 1:
            groups[-1].append(run[-1])
    return groups


# As released: one triple, and it is the first group after layer 15.
GROUPS_1_5B = [[first, first + 1] for first in range(1, 15, 2)] + [[16, 17, 18]] + [[first, first + 1] for first in range(19, 31, 2)]


def presets() -> dict[str, DecoderConfig]:
    """1.5B as released. Of 125M and 350M only sizes are published, no weights or layer plan (hymba, section 3): theirs is like it."""
    return {
        "hymba-125m": _shape(512, 1664, 24, (8, 4), (0, 11, 23), pairs(24, (0, 11, 23))),
        "hymba-350m": _shape(768, 2432, 32, (12, 4), (0, 15, 31), GROUPS_1_5B),
        "hymba-1.5b": _shape(1600, 5504, 32, (25, 5), (0, 15, 31), GROUPS_1_5B),
    }


# What is computed here; a config that says otherwise describes another function.
REQUIRED: dict[str, Any] = {
    "hidden_act": "silu",
    "mlp_hidden_act": "silu",
    "attn_hidden_size": -1,
    "kq_norm": "none",
    "kv_reuse_every_i_layer": -1,
    "kv_weight_reuse": False,
    "mamba_conv_bias": True,
    "mamba_inner_layernorms": True,
    "mamba_proj_bias": False,
    "memory_tokens_interspersed_every": 0,
    "num_mamba": 1,
    "num_experts": 1,
    "num_experts_per_tok": 1,
    "attention_dropout": 0.0,
}


def read_config(values: Mapping[str, Any]) -> DecoderConfig:
    """`config.json` of the released form; raises `CheckpointError` for a layer plan or function that is not Hymba's."""
    fields = Fields(values)
    fields.require("Hymba", REQUIRED)
    hidden, query_heads = fields.integer("hidden_size"), fields.integer("num_attention_heads")
    count = fields.integer("num_hidden_layers", most=MOST_LAYERS)
    if values.get("layer_type", ["h"] * count) != ["h"] * count:
        raise wrong("layer_type", values["layer_type"], f"{count} times 'h' is needed")
    head = HybridHead(
        query_heads=query_heads,
        kv_heads=fields.integer("num_key_value_heads"),
        qk_channels=max(1, hidden // query_heads) if values.get("kq_head_dim", -1) == -1 else fields.integer("kq_head_dim"),
        v_channels=_v_channels(fields, hidden, query_heads),
        state=fields.integer("mamba_d_state"),
        rank=fields.integer("mamba_dt_rank"),
        taps=fields.integer("mamba_d_conv"),
        rope=_rope(fields),
    )
    mlp = MLP(ffn=fields.integer("intermediate_size"), gated=True, activation="silu")
    meta = fields.integer("num_memory_tokens")
    window, global_layers = fields.integer("sliding_window"), fields.indices("global_attn_idx", count)
    return DecoderConfig(
        vocab=fields.integer("vocab_size"),
        hidden=hidden,
        layers=_stack(head, mlp, count, window, meta, global_layers, _groups(values, count, global_layers)),
        norm_eps=fields.number("rms_norm_eps", default=1e-6),
        tied=fields.flag("tie_word_embeddings", default=True),
        meta_tokens=meta,
        max_positions=fields.integer("max_position_embeddings", default=8192),
    )


def _v_channels(fields: Fields, hidden: int, query_heads: int) -> int:
    """The inner width over the query heads; `v_head_dim`, where it is there, must be that."""
    inner = fields.integer("mamba_expand") * hidden
    width = fields.integer("v_head_dim", default=max(1, inner // query_heads))
    if width * query_heads != inner:
        raise CheckpointError(f"config.json asks for {query_heads} heads of {width} values, but the Mamba side has {inner} channels.")
    return width


def _rope(fields: Fields) -> Rope | None:
    if not fields.flag("rope", default=True):
        return None
    kind = fields.values.get("rope_type", "ntk")
    if kind not in ("ntk", None, "default"):
        raise wrong("rope_type", kind, "amaru reads Hymba with 'ntk' or 'default'")
    base = fields.number("rope_theta", default=10000.0)
    extended = fields.integer("max_position_embeddings", default=8192)
    original = fields.integer("orig_max_position_embeddings", default=2048)
    return Rope(base=base, scaling=NTKScaling(factor=NTK_FACTOR, original=original, extended=extended) if kind == "ntk" else None)


def _groups(values: Mapping[str, Any], count: int, global_layers: Sequence[int]) -> list[list[int]]:
    """Layers that share a cache: consecutive window layers, the first of which owns it."""
    groups = values.get("kv_reuse_group") or []
    if not isinstance(groups, list):
        raise wrong("kv_reuse_group", groups, "a list of lists of layers is needed")
    taken: set[int] = set(global_layers)
    for group in groups:
        allowed = isinstance(group, list) and group and all(isinstance(index, int) and 0 <= index < count for index in group)
        if not allowed or group != list(range(group[0], group[0] + len(group))) or taken & set(group):
            raise wrong("kv_reuse_group", group, "each group holds consecutive layers, none of them global or in another group")
        taken |= set(group)
    return groups


def refuses(config: DecoderConfig) -> str | None:
    """Why Hymba's config.json cannot say this stack."""
    found = blocks(config, (HybridHead, MLP))
    if isinstance(found, str):
        return f"Hymba {found}"
    heads = [replace(head, window=None, sinks=0, shares_kv=False) for head, _ in found]
    head, mlp = heads[0], found[0][1]
    seeing = {(layer.window, layer.sinks) for layer, _ in found if layer.window is not None}
    if not one_width(tuple(heads)) or not one_width(config.layers[1::2]) or len(seeing) > 1:
        return "Hymba's config.json holds one width for all layers of a kind, and one window"
    if config.norm != "rmsnorm" or not config.meta_tokens or not mlp.gated or mlp.activation != "silu":
        return "Hymba has RMSNorm, meta tokens and a gated SiLU MLP"
    if not seeing or seeing.pop()[1] != config.meta_tokens or any(layer.window is None and layer.sinks for layer, _ in found):
        return "Hymba has window layers that always see its meta tokens"
    if head.inner % config.hidden:
        return "Hymba's inner width is a multiple of the hidden width"
    if head.rope is None or not _is_ntk(head.rope, config.max_positions):
        return "Hymba has rotary embedding with NTK scaling up to its longest context"
    sharing = {index for pair in config.kv_sources().items() for index in pair}
    if any(layer.window is None and LAYERS_PER_BLOCK * block in sharing for block, (layer, _) in enumerate(found)):
        return "Hymba's global layers share keys and values with no other layer"
    return None


def _is_ntk(rope: Rope, positions: int) -> bool:
    scaling = rope.scaling
    if scaling is None:
        return rope.fraction == 1
    return rope.fraction == 1 and isinstance(scaling, NTKScaling) and (scaling.factor, scaling.extended) == (NTK_FACTOR, positions)


def write_config(config: DecoderConfig) -> dict[str, Any]:
    """The inverse of `read_config`."""
    heads = [layer for layer in config.layers if isinstance(layer, HybridHead)]
    mlp = config.layers[1]
    head, scaling = heads[0], heads[0].rope.scaling if heads[0].rope else None
    assert isinstance(mlp, MLP) and head.rope is not None
    rope: dict[str, Any] = {"rope": True, "rope_theta": head.rope.base, "rope_type": "default"}
    if isinstance(scaling, NTKScaling):
        rope |= {"rope_type": "ntk", "orig_max_position_embeddings": scaling.original}
    return {
        "architectures": ["HymbaForCausalLM"],
        "model_type": MODEL_TYPES[0],
        "vocab_size": config.vocab,
        "hidden_size": config.hidden,
        "intermediate_size": mlp.ffn,
        "num_hidden_layers": len(heads),
        "layer_type": ["h"] * len(heads),
        "num_attention_heads": head.query_heads,
        "num_key_value_heads": head.kv_heads,
        "kq_head_dim": -1 if head.qk_channels == config.hidden // head.query_heads else head.qk_channels,
        "v_head_dim": head.v_channels,
        "mamba_expand": head.inner // config.hidden,
        "mamba_d_state": head.state,
        "mamba_dt_rank": head.rank,
        "mamba_d_conv": head.taps,
        "conv_dim": {str(index): head.inner for index in range(len(heads))},
        "global_attn_idx": [index for index, layer in enumerate(heads) if layer.window is None],
        "kv_reuse_group": _sharing(heads),
        "sliding_window": next(layer.window for layer in heads if layer.window is not None),
        "num_memory_tokens": config.meta_tokens,
        "rms_norm_eps": config.norm_eps,
        "max_position_embeddings": config.max_positions,
        "seq_length": config.max_positions,
        "tie_word_embeddings": config.tied,
        **rope,
        **REQUIRED,
    }


def _sharing(heads: list[HybridHead]) -> list[list[int]]:
    groups: list[list[int]] = []
    for index, layer in enumerate(heads):
        if layer.shares_kv:
            groups[-1].append(index)
        else:
            groups.append([index])
    return [group for group in groups if len(group) > 1]


NETWORK = {
    "embedding.weight": "model.embed_tokens.weight",
    "meta_tokens": "model.memory_tokens",
    "norm.weight": "model.final_layernorm.weight",
    "head.weight": "lm_head.weight",
}
HEAD = {
    "norm.weight": "input_layernorm.weight",
    "mixer.in_proj.weight": "mamba.in_proj.weight",
    "mixer.conv1d.weight": "mamba.conv1d.weight",
    "mixer.conv1d.bias": "mamba.conv1d.bias",
    "mixer.x_proj.weight": "mamba.x_proj.0.weight",
    "mixer.dt_norm.weight": "mamba.dt_layernorm.weight",
    "mixer.B_norm.weight": "mamba.B_layernorm.weight",
    "mixer.C_norm.weight": "mamba.C_layernorm.weight",
    "mixer.dt_proj.weight": "mamba.dt_proj.0.weight",
    "mixer.dt_bias": "mamba.dt_proj.0.bias",
    "mixer.A_log": "mamba.A_log.0",
    "mixer.D": "mamba.D.0",
    "mixer.attention_norm.weight": "mamba.pre_avg_layernorm1.weight",
    "mixer.ssm_norm.weight": "mamba.pre_avg_layernorm2.weight",
    "mixer.out_proj.weight": "mamba.out_proj.weight",
}
FEED_FORWARD = {
    "norm.weight": "pre_moe_layernorm.weight",
    **{f"mixer.{name}_proj.weight": f"moe.experts.0.{name}_proj.weight" for name in ("gate", "up", "down")},
}


def stored(config: DecoderConfig) -> list[Stored]:
    return stored_blocks(config, NETWORK, (HEAD, FEED_FORWARD))


def canonical(name: str) -> str:
    return name
