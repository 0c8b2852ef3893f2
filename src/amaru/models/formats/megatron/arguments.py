"""A model as Megatron's settings say it, and back: the arguments of Megatron-LM, and the config fields of Megatron-Core and NeMo."""

from collections.abc import Mapping
from typing import Any

import torch

from amaru.errors import CheckpointError
from amaru.models.decoder import DecoderConfig
from amaru.models.families.fields import MOST_LAYERS, Fields, wrong
from amaru.models.formats.megatron.supported import scheme_of
from amaru.models.pattern import layers_from_pattern, pattern_of
from amaru.nn.attention import Attention
from amaru.nn.layer import LayerConfig
from amaru.nn.mamba2 import Mamba2
from amaru.nn.mlp import MLP
from amaru.nn.moe import MoE
from amaru.nn.rope import Rope

# What this implementation computes; a checkpoint that says otherwise holds another function.
REQUIRED: dict[str, Any] = {
    "add_bias_linear": False,
    "add_qkv_bias": False,
    "bias": False,
    "gated_linear_unit": False,
    "swiglu": False,
    "qk_layernorm": False,
    "rotary_interleaved": False,
    "multi_latent_attention": False,
    "use_rope_scaling": False,
    "window_size": None,
    "seq_len_interpolation_factor": None,
    "squared_relu": True,
}


def write_arguments(config: DecoderConfig, dtype: torch.dtype, ranks: int = 1) -> dict[str, Any]:
    """What `--use-checkpoint-args` of Megatron-LM and the loader of Megatron-Bridge look for."""
    kinds: dict[type, Any] = {type(layer): layer for layer in config.layers}
    mamba, attention, mlp = (kinds.get(kind) for kind in (Mamba2, Attention, MLP))
    hybrid, rope = scheme_of(config).hybrid, attention.rope if attention else None
    return {
        "num_layers": len(config.layers) // (1 if hybrid else 2),
        "hidden_size": config.hidden,
        "ffn_hidden_size": mlp.ffn if mlp else 4 * config.hidden,
        "num_attention_heads": attention.query_heads if attention else 1,
        "group_query_attention": attention is not None,
        "num_query_groups": attention.kv_heads if attention else 1,
        "kv_channels": attention.channels if attention else None,
        "seq_length": config.max_positions,
        "max_position_embeddings": config.max_positions,
        "position_embedding_type": "rope" if rope else "none",
        "add_position_embedding": True,
        "use_rotary_position_embeddings": rope is not None,
        "rotary_base": (int(rope.base) if rope.base.is_integer() else rope.base) if rope else 10000,
        "rotary_percent": rope.fraction if rope else 1.0,
        "untie_embeddings_and_output_weights": not config.tied,
        "normalization": "RMSNorm" if config.norm == "rmsnorm" else "LayerNorm",
        "apply_layernorm_1p": config.norm == "layernorm1p",
        "norm_epsilon": config.norm_eps,
        "vocab_size": config.vocab,
        "padded_vocab_size": config.vocab,
        "params_dtype": dtype,
        "bf16": dtype == torch.bfloat16,
        "fp16": dtype == torch.float16,
        **(_hybrid(config, mamba) if hybrid else {"is_hybrid_model": False}),
        **_experts(kinds.get(MoE)),
        **{name: value for name, value in REQUIRED.items() if name not in ("bias", "gated_linear_unit")},
        **_circumstances(ranks),
    }


def _hybrid(config: DecoderConfig, mamba: Mamba2 | None) -> dict[str, Any]:
    return {
        "is_hybrid_model": True,
        "hybrid_override_pattern": pattern_of(config.layers),
        "spec": ["megatron.core.models.mamba.mamba_layer_specs", "mamba_stack_spec"],
        "mamba_num_heads": mamba.heads if mamba else None,
        "mamba_head_dim": mamba.channels if mamba else 64,
        "mamba_num_groups": mamba.groups if mamba else 8,
        "mamba_state_dim": mamba.state if mamba else 128,
    }


def _experts(moe: MoE | None) -> dict[str, Any]:
    if moe is None:
        return {"num_experts": None}
    return {
        "num_experts": moe.experts,
        "moe_router_topk": moe.top_k,
        "moe_ffn_hidden_size": moe.ffn,
        "moe_shared_expert_intermediate_size": moe.shared_ffn,
        "moe_router_num_groups": moe.groups if moe.groups > 1 else None,
        "moe_router_group_topk": moe.top_groups if moe.groups > 1 else None,
        "moe_router_topk_scaling_factor": moe.scale,
        "moe_latent_size": moe.latent,
        "moe_router_score_function": "sigmoid",
        "moe_router_enable_expert_bias": True,
        "moe_router_pre_softmax": False,
        "moe_router_dtype": "fp32",
        "moe_grouped_gemm": True,
    }


def _circumstances(ranks: int) -> dict[str, Any]:
    """What is true of any checkpoint written here, and what its readers would miss."""
    return {
        "ckpt_format": "torch_dist",
        "tensor_model_parallel_size": ranks,
        "pipeline_model_parallel_size": 1,
        "virtual_pipeline_model_parallel_size": None,
        "expert_model_parallel_size": 1,
        "world_size": ranks,
        "data_parallel_size": 1,
        "no_save_optim": True,
        "no_save_rng": True,
        "attention_dropout": 0.0,
        "hidden_dropout": 0.0,
        "apply_query_key_layer_scaling": False,
        "init_method_xavier_uniform": False,
        "heterogeneous_layers_config_path": None,
        "no_persist_layer_norm": False,
        "overlap_p2p_comm": False,
        "decoder_first_pipeline_num_layers": None,
        "decoder_last_pipeline_num_layers": None,
        "fp8_param_gather": False,
        "bias_swiglu_fusion": False,
        "bias_gelu_fusion": False,
        "cp_comm_type": ["p2p"],
        "config_logger_dir": "",
    }


def read_arguments(values: Mapping[str, Any], where: str, rows: int) -> DecoderConfig:
    """Settings of either vocabulary -> layer tuple; `rows` has the embedding, of which the last may be padding.

    Raises `CheckpointError` for a missing setting and for one that asks for a function no family here has.
    """
    fields = Fields(values, where)
    fields.require("Megatron's models", REQUIRED)
    _check_activation(values, where)
    pattern = values.get("hybrid_override_pattern") or values.get("hybrid_layer_pattern")
    shared = {
        "vocab": min(fields.integer("vocab_size", "padded_vocab_size", default=rows), rows),
        "hidden": fields.integer("hidden_size"),
        "norm_eps": fields.number("norm_epsilon", "layernorm_epsilon", default=1e-5),
        "tied": _tied(fields),
        "max_positions": fields.integer("max_position_embeddings", "seq_length", "encoder_seq_length", default=8192),
    }
    if pattern is None:
        return _transformer(fields, shared)
    if not isinstance(pattern, str):
        raise wrong("hybrid_override_pattern", pattern, "a string such as 'M-M*-' is needed", where)
    if values.get("position_embedding_type") not in (None, "none"):
        raise wrong("position_embedding_type", values["position_embedding_type"], "hybrid models are read with 'none'", where)
    _check_norm(values, where, ("RMSNorm",))
    return DecoderConfig(layers=_hybrid_layers(fields, pattern.replace("|", "")), **shared)


def _transformer(fields: Fields, shared: dict[str, Any]) -> DecoderConfig:
    _check_norm(fields.values, fields.where, ("LayerNorm", "layernorm1p"))
    if not _zero_centred(fields):
        raise CheckpointError(f"{fields.where} describes a Transformer whose LayerNorm gain is not around zero; Nemotron-4's is.")
    rope = Rope(
        base=fields.number("rotary_base", default=10000.0),
        fraction=fields.number("rotary_percent", "rotary_percentage", default=1.0),
    )
    block = (_attention(fields, rope), MLP(ffn=fields.integer("ffn_hidden_size")))
    return DecoderConfig(layers=block * fields.integer("num_layers", most=MOST_LAYERS), norm="layernorm1p", **shared)


def _hybrid_layers(fields: Fields, pattern: str) -> Any:
    layers: dict[str, LayerConfig] = {}
    if "M" in pattern:
        channels = fields.integer("mamba_head_dim", default=64)
        layers["M"] = Mamba2(
            heads=fields.integer("mamba_num_heads", default=2 * fields.integer("hidden_size") // channels),
            channels=channels,
            groups=fields.integer("mamba_num_groups", default=8),
            state=fields.integer("mamba_state_dim", default=128),
        )
    if "*" in pattern:
        layers["*"] = _attention(fields, None)
    if "-" in pattern:
        layers["-"] = MLP(ffn=fields.integer("ffn_hidden_size"))
    if "E" in pattern:
        layers["E"] = _moe(fields)
    return layers_from_pattern(pattern, layers)  # type: ignore[arg-type]


def _moe(fields: Fields) -> MoE:
    fields.require("Nemotron-3", {"moe_router_score_function": "sigmoid", "moe_router_enable_expert_bias": True})
    top_k, grouped = fields.integer("moe_router_topk"), fields.values.get("moe_router_num_groups") is not None
    return MoE(
        experts=fields.integer("num_experts", "num_moe_experts"),
        top_k=top_k,
        ffn=fields.integer("moe_ffn_hidden_size"),
        shared_ffn=fields.integer("moe_shared_expert_intermediate_size"),
        groups=fields.integer("moe_router_num_groups") if grouped else 1,
        top_groups=fields.integer("moe_router_group_topk") if grouped else 1,
        normalised=top_k > 1,
        scale=fields.number("moe_router_topk_scaling_factor", default=1.0),
        latent=None if fields.values.get("moe_latent_size") is None else fields.integer("moe_latent_size"),
    )


def _attention(fields: Fields, rope: Rope | None) -> Attention:
    heads = fields.integer("num_attention_heads")
    grouped = fields.values.get("group_query_attention", True) and fields.values.get("num_query_groups") is not None
    return Attention(
        query_heads=heads,
        kv_heads=fields.integer("num_query_groups") if grouped else heads,
        channels=fields.integer("kv_channels", default=max(1, fields.integer("hidden_size") // heads)),
        rope=rope,
    )


def _tied(fields: Fields) -> bool:
    if "untie_embeddings_and_output_weights" in fields.values:
        return not fields.flag("untie_embeddings_and_output_weights")
    return fields.flag("share_embeddings_and_output_weights")


def _zero_centred(fields: Fields) -> bool:
    said = [fields.flag(name) for name in ("apply_layernorm_1p", "layernorm_zero_centered_gamma") if name in fields.values]
    return said[0] if said else fields.values.get("normalization") == "layernorm1p"


def _check_norm(values: Mapping[str, Any], where: str, allowed: tuple[str, ...]) -> None:
    if (found := values.get("normalization", allowed[0])) not in allowed:
        raise wrong("normalization", found, f"this kind of model is read with {' or '.join(allowed)}", where)


def _check_activation(values: Mapping[str, Any], where: str) -> None:
    """NeMo names a function, in a way that changed over time; those that are certainly another one are refused."""
    for name in ("activation_func", "activation"):
        if any(other in str(values.get(name)).lower() for other in ("gelu", "silu", "swi", "geglu")):
            raise wrong(name, values[name], "amaru reads Megatron's models with squared ReLU only", where)
