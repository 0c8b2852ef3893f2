"""Nemotron-H and Nemotron-3: their `config.json`, and the names of their tensors in Hugging Face checkpoints."""

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from amaru.errors import CheckpointError
from amaru.models.decoder import DecoderConfig
from amaru.models.families.fields import MOST_LAYERS, Fields, wrong
from amaru.models.families.nemotron_h_shapes import presets as presets
from amaru.models.families.stored import Stored
from amaru.models.pattern import layers_from_pattern, pattern_of
from amaru.nn.attention import Attention
from amaru.nn.layer import LayerConfig
from amaru.nn.mamba2 import Mamba2
from amaru.nn.mlp import MLP
from amaru.nn.moe import MoE

MODEL_TYPES = ("nemotron_h",)
TIES_HEAD = False  # transformers 5.23 ties nothing in this family, and would draw a head at random
LAYERS_PER_BLOCK = 1

BLOCK_TYPES = {"linear_attention": "M", "mamba": "M", "full_attention": "*", "attention": "*", "mlp": "-", "moe": "E"}
MOST_EXPERTS = 1_000_000  # in all layers together; each is two tensors of a file

# What this implementation computes; a config that says otherwise describes another function.
REQUIRED: dict[str, Any] = {
    "attention_bias": False,
    "mlp_bias": False,
    "mamba_proj_bias": False,
    "use_bias": False,
    "use_conv_bias": True,
    "mlp_hidden_act": "relu2",
    "mamba_hidden_act": "silu",
    "sliding_window": None,
    "num_nextn_predict_layers": 0,
}
# transformers ignores n_shared_experts, vLLM multiplies the width by it: only with one do they mean the same.
EXPERTS_REQUIRED: dict[str, Any] = {"n_shared_experts": 1}


def read_config(values: Mapping[str, Any]) -> DecoderConfig:
    """`config.json` of old (`hybrid_override_pattern`) or new (`layers_block_type`) form -> layer tuple.

    Raises `CheckpointError` for a missing field or one that asks for a function this family does not have.
    """
    fields = Fields(values)
    if later := values.get("num_nextn_predict_layers"):
        raise wrong("num_nextn_predict_layers", later, "amaru reads no heads for later tokens: take out mtp.* and set it to 0")
    fields.require("Nemotron-H", REQUIRED)
    pattern = _pattern(values)
    layers = {letter: read(fields, pattern) for letter, read in READERS.items() if letter in pattern}
    if (count := values.get("num_hidden_layers")) not in (None, len(pattern)):
        raise wrong("num_hidden_layers", count, f"its pattern has {len(pattern)} layers")
    return DecoderConfig(
        vocab=fields.integer("vocab_size"),
        hidden=fields.integer("hidden_size"),
        layers=layers_from_pattern(pattern, layers),  # type: ignore[arg-type]
        norm_eps=fields.number("layer_norm_epsilon", "rms_norm_eps", default=1e-5),
        tied=fields.flag("tie_word_embeddings"),
        max_positions=fields.integer("max_position_embeddings", default=8192),
    )


def _read_mamba(fields: Fields, pattern: str) -> Mamba2:
    return Mamba2(
        heads=fields.integer("mamba_num_heads"),
        channels=fields.integer("mamba_head_dim"),
        groups=fields.integer("n_groups", "mamba_n_groups"),
        state=fields.integer("ssm_state_size"),
        taps=fields.integer("conv_kernel", "mamba_d_conv"),
        time_step_limit=_limit(fields.values.get("time_step_limit", (0.0, math.inf))),
        chunk_size=fields.integer("chunk_size", "mamba_chunk_size"),
    )


def _read_attention(fields: Fields, pattern: str) -> Attention:
    return Attention(
        query_heads=fields.integer("num_attention_heads"),
        kv_heads=fields.integer("num_key_value_heads"),
        channels=fields.integer("head_dim", "attention_head_dim"),
    )


def _read_moe(fields: Fields, pattern: str) -> MoE:
    fields.require("Nemotron-3", EXPERTS_REQUIRED)
    return MoE(
        experts=fields.integer("n_routed_experts", most=MOST_EXPERTS // pattern.count("E")),
        top_k=fields.integer("num_experts_per_tok"),
        ffn=fields.integer("moe_intermediate_size"),
        shared_ffn=fields.integer("moe_shared_expert_intermediate_size"),
        groups=fields.integer("n_group", default=1),
        top_groups=fields.integer("topk_group", default=1),
        normalised=fields.flag("norm_topk_prob", default=True),
        scale=fields.number("routed_scaling_factor", default=1.0),
        latent=None if fields.values.get("moe_latent_size") is None else fields.integer("moe_latent_size"),
    )


READERS: dict[str, Callable[[Fields, str], LayerConfig]] = {
    "M": _read_mamba,
    "*": _read_attention,
    "-": lambda fields, _: MLP(ffn=fields.integer("intermediate_size")),
    "E": _read_moe,
}


def refuses(config: DecoderConfig) -> str | None:
    """Why Nemotron-H's config.json cannot say this stack."""
    for index, layer in enumerate(config.layers):
        if not _known(layer):
            return f"Nemotron-H has no layer like layer {index} ({layer.kind}: {layer.describe()})"
    if config.norm != "rmsnorm" or config.meta_tokens:
        return "Nemotron-H has RMSNorm and no meta tokens"
    for kind in (Mamba2, Attention, MLP, MoE):
        distinct = {layer for layer in config.layers if isinstance(layer, kind)}
        if len(distinct) > 1:
            return f"Nemotron-H's config.json holds one width for all {kind.__name__} layers, and this model has {len(distinct)}"
    return None


def _known(layer: LayerConfig) -> bool:
    if isinstance(layer, Attention):
        return layer.rope is None and not layer.bias
    return isinstance(layer, Mamba2 | MoE) or (isinstance(layer, MLP) and layer == MLP(ffn=layer.ffn))


def write_config(config: DecoderConfig) -> dict[str, Any]:
    """The inverse of `read_config`, in fields that stock transformers, vLLM and older readers understand."""
    names = {"M": "linear_attention", "*": "full_attention", "-": "mlp", "E": "moe"}
    pattern = pattern_of(config.layers)
    values: dict[str, Any] = {
        "architectures": ["NemotronHForCausalLM"],
        "model_type": MODEL_TYPES[0],
        "vocab_size": config.vocab,
        "hidden_size": config.hidden,
        "num_hidden_layers": len(config.layers),
        "hybrid_override_pattern": pattern,
        "layers_block_type": [names[letter] for letter in pattern],
        "layer_norm_epsilon": config.norm_eps,
        "tie_word_embeddings": config.tied,
        "residual_in_fp32": False,
        "max_position_embeddings": config.max_positions,  # no position is embedded; readers take it as a limit
        "rescale_prenorm_residual": True,
        **REQUIRED,
    }
    for layer in dict.fromkeys(config.layers):
        values |= _written(layer)
    return values


def _written(layer: LayerConfig) -> dict[str, Any]:
    """What `config.json` says of all layers of one kind."""
    match layer:
        case Mamba2():
            return _written_mamba(layer)
        case Attention():
            return {"num_attention_heads": layer.query_heads, "num_key_value_heads": layer.kv_heads, "head_dim": layer.channels}
        case MLP():
            return {"intermediate_size": layer.ffn}
        case MoE():
            return _written_moe(layer)
    raise AssertionError(f"unreachable: {layer}")


def _written_mamba(mamba: Mamba2) -> dict[str, Any]:
    """`time_step_min` only sets the range that dt is first drawn from, but transformers up to 5.23 clamps dt with it in the
    prefill; it is written as 1e-12 so that a stock model computes what was trained.
    """
    return {
        "mamba_num_heads": mamba.heads,
        "mamba_head_dim": mamba.channels,
        "n_groups": mamba.groups,
        "ssm_state_size": mamba.state,
        "conv_kernel": mamba.taps,
        "chunk_size": mamba.chunk_size,
        "time_step_limit": list(mamba.time_step_limit),
        "time_step_min": max(mamba.time_step_limit[0], 1e-12),
        "mamba_ssm_cache_dtype": "float32",
    }


def _written_moe(moe: MoE) -> dict[str, Any]:
    return {
        "n_routed_experts": moe.experts,
        "num_experts_per_tok": moe.top_k,
        "moe_intermediate_size": moe.ffn,
        "moe_shared_expert_intermediate_size": moe.shared_ffn,
        "n_group": moe.groups,
        "topk_group": moe.top_groups,
        "norm_topk_prob": moe.normalised,
        "routed_scaling_factor": moe.scale,
        "moe_latent_size": moe.latent,
        **EXPERTS_REQUIRED,
    }


NAMES = {
    "embedding.weight": "backbone.embeddings.weight",
    "norm.weight": "backbone.norm_f.weight",
    "head.weight": "lm_head.weight",
}


def stored(config: DecoderConfig) -> list[Stored]:
    """Everything inside a layer keeps its name, but experts, one tensor here, have a file tensor each."""
    entries: list[Stored] = []
    for ours, (spec, axes) in config.tensors().items():
        name = NAMES.get(ours) or f"backbone.{ours}"
        mixer, experts, matrix = name.partition(".experts.")
        count = spec.layout.shape(axes)[0]
        each = [Stored(f"{mixer}.experts.{index}.{matrix}.weight", ours, index) for index in range(count)] if experts else []
        entries += each or [Stored(name, ours)]
    return entries


def canonical(name: str) -> str:
    """transformers 5 has the prefix `model.` in memory, `backbone.` on disk; files with either are in the wild."""
    return re.sub(r"^model\.", "backbone.", name)


def _pattern(values: Mapping[str, Any]) -> str:
    """From either field; where both are there they must agree."""
    pattern, blocks = values.get("hybrid_override_pattern"), values.get("layers_block_type")
    if pattern is not None and not isinstance(pattern, str):
        raise CheckpointError(
            f"config.json sets hybrid_override_pattern to {json.dumps(pattern)[:80]}; a string such as 'M-M*-' is needed."
        )
    if pattern is None and blocks is None:
        raise CheckpointError("config.json has neither hybrid_override_pattern nor layers_block_type, so the stack is unknown.")
    from_pattern = None if pattern is None else pattern.replace("|", "")
    from_blocks = None if blocks is None else _pattern_of_blocks(blocks)
    if None not in (from_pattern, from_blocks) and from_pattern != from_blocks:
        raise CheckpointError(
            f"config.json contradicts itself: hybrid_override_pattern is {json.dumps(pattern)[:200]}, "
            f"layers_block_type spells {json.dumps(from_blocks)[:200]}."
        )
    found = from_pattern or from_blocks or ""
    if len(found) > MOST_LAYERS:
        raise CheckpointError(f"config.json describes {len(found):,} layers; at most {MOST_LAYERS:,} are read.")
    return found


def _pattern_of_blocks(blocks: Any) -> str:
    if not isinstance(blocks, list):
        raise CheckpointError(f"config.json sets layers_block_type to {json.dumps(blocks)[:80]}; a list of names is needed.")
    unknown = sorted({str(block) for block in blocks} - BLOCK_TYPES.keys())
    if unknown:
        raise CheckpointError(f"config.json has layers of type {', '.join(unknown)[:80]}; allowed are {', '.join(BLOCK_TYPES)}.")
    return "".join(BLOCK_TYPES[block] for block in blocks)


def _limit(value: Any) -> tuple[float, float]:
    """transformers 5 writes infinity as {"__float__": "Infinity"}; older files as the bare word."""
    pair: list[Any] = list(value) if isinstance(value, list | tuple) else []
    ends: list[Any] = [end["__float__"] if isinstance(end, dict) and "__float__" in end else end for end in pair]
    try:
        low, high = (float(end) for end in ends)
    except (TypeError, ValueError):
        low, high = math.nan, math.nan
    if not 0 <= low < high:
        raise CheckpointError(f"config.json sets time_step_limit to {json.dumps(value)[:80]}; two rising numbers from 0 on are needed.")
    return low, high
