"""Nemotron-H: its published shapes, its `config.json`, and the names of its tensors in Hugging Face checkpoints."""

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from amaru.errors import CheckpointError
from amaru.models.decoder import DecoderConfig
from amaru.models.families.fields import Fields
from amaru.models.families.stored import Stored
from amaru.models.pattern import layers_from_pattern, pattern_of
from amaru.nn.attention import Attention
from amaru.nn.layer import LayerConfig
from amaru.nn.mamba2 import Mamba2
from amaru.nn.mlp import MLP

MODEL_TYPES = ("nemotron_h",)
TIES_HEAD = False  # transformers 5.23 ties nothing in this family, and would draw a head at random
LAYERS_PER_BLOCK = 1

PATTERN_8B = "M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-"
PATTERN_47B = "M-M-M-M-M-M-M-M-M*-M-M-M-M-M-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-M-M---MM---M-M*-M-M-M-M-M-"
PATTERN_56B = "M-M-M-M*-" + "M-M-M-M-M*-" * 9 + "M-M-M-M-M-"
PATTERN_NANO_9B = "M-M-M-MM-M-M-M*-M-M-M*-M-M-M-M*-M-M-M-M*-M-MM-M-M-M-M-M-"
PATTERN_NANO_12B = "M-M-M-M*-" + "M-M-M-M*-" * 5 + "M-M-M-M-"


def _shape(pattern: str, hidden: int, ffn: int, attention: tuple[int, int, int], mamba: tuple[int, int, int]) -> DecoderConfig:
    query_heads, kv_heads, channels = attention
    heads, head_channels, state = mamba
    layers: dict[str, LayerConfig] = {
        "M": Mamba2(heads=heads, channels=head_channels, groups=8, state=state),
        "*": Attention(query_heads=query_heads, kv_heads=kv_heads, channels=channels),
        "-": MLP(ffn=ffn),
    }
    return DecoderConfig(vocab=131072, hidden=hidden, layers=layers_from_pattern(pattern, layers))  # type: ignore[arg-type]


def presets() -> dict[str, DecoderConfig]:
    """Published shapes by name (nemotron_h, sections 1.1 and 1.3)."""
    return {
        "nemotron-h-4b": _shape(PATTERN_8B, 3072, 12288, (32, 8, 128), (112, 64, 128)),
        "nemotron-h-8b": _shape(PATTERN_8B, 4096, 21504, (32, 8, 128), (128, 64, 128)),
        "nemotron-h-47b": _shape(PATTERN_47B, 8192, 30720, (64, 8, 128), (256, 64, 256)),
        "nemotron-h-56b": _shape(PATTERN_56B, 8192, 32768, (64, 8, 128), (256, 64, 256)),
        "nemotron-nano-9b-v2": _shape(PATTERN_NANO_9B, 4480, 15680, (40, 8, 128), (128, 80, 128)),
        "nemotron-nano-12b-v2": _shape(PATTERN_NANO_12B, 5120, 20480, (40, 8, 128), (128, 80, 128)),
    }


BLOCK_TYPES = {"linear_attention": "M", "mamba": "M", "full_attention": "*", "attention": "*", "mlp": "-"}

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


def read_config(values: Mapping[str, Any]) -> DecoderConfig:
    """`config.json` of old (`hybrid_override_pattern`) or new (`layers_block_type`) form -> layer tuple.

    Raises `CheckpointError` for a missing field or one that asks for a function this family does not have.
    """
    fields = Fields(values)
    fields.require("Nemotron-H", REQUIRED)
    pattern = _pattern(values)
    layers: dict[str, LayerConfig] = {}
    if "M" in pattern:
        layers["M"] = Mamba2(
            heads=fields.integer("mamba_num_heads"),
            channels=fields.integer("mamba_head_dim"),
            groups=fields.integer("n_groups", "mamba_n_groups"),
            state=fields.integer("ssm_state_size"),
            taps=fields.integer("conv_kernel", "mamba_d_conv"),
            time_step_limit=_limit(values.get("time_step_limit", (0.0, math.inf))),
            chunk_size=fields.integer("chunk_size", "mamba_chunk_size"),
        )
    if "*" in pattern:
        layers["*"] = Attention(
            query_heads=fields.integer("num_attention_heads"),
            kv_heads=fields.integer("num_key_value_heads"),
            channels=fields.integer("head_dim", "attention_head_dim"),
        )
    if "-" in pattern:
        layers["-"] = MLP(ffn=fields.integer("intermediate_size"))
    return DecoderConfig(
        vocab=fields.integer("vocab_size"),
        hidden=fields.integer("hidden_size"),
        layers=layers_from_pattern(pattern, layers),  # type: ignore[arg-type]
        norm_eps=fields.number("layer_norm_epsilon", "rms_norm_eps", default=1e-5),
        tied=fields.flag("tie_word_embeddings"),
        max_positions=fields.integer("max_position_embeddings", default=8192),
    )


def refuses(config: DecoderConfig) -> str | None:
    """Why Nemotron-H's config.json cannot say this stack."""
    for index, layer in enumerate(config.layers):
        plain = (Mamba2, Attention, MLP)
        if not isinstance(layer, plain) or getattr(layer, "rope", None) or getattr(layer, "bias", False) or getattr(layer, "gated", False):
            return f"Nemotron-H has no layer like layer {index} ({layer.kind}: {layer.describe()})"
    if config.norm != "rmsnorm" or config.meta_tokens:
        return "Nemotron-H has RMSNorm and no meta tokens"
    widths = {kind: {layer for layer in config.layers if isinstance(layer, kind)} for kind in (Mamba2, Attention, MLP)}
    for kind, distinct in widths.items():
        if len(distinct) > 1:
            return f"Nemotron-H's config.json holds one width for all {kind.__name__} layers, and this model has {len(distinct)}"
    return None


def write_config(config: DecoderConfig) -> dict[str, Any]:
    """The inverse of `read_config`, in fields that stock transformers, vLLM and older readers understand.

    `time_step_min` only sets the range that dt is first drawn from, but transformers up to 5.23 clamps dt with it
    in the prefill; it is written as 1e-12 so that a stock model computes what was trained.
    """
    mamba, attention, mlp = (_first(config, kind) for kind in (Mamba2, Attention, MLP))
    names = {"M": "linear_attention", "*": "full_attention", "-": "mlp"}
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
    if mamba:
        values |= {
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
    if attention:
        values |= {
            "num_attention_heads": attention.query_heads,
            "num_key_value_heads": attention.kv_heads,
            "head_dim": attention.channels,
        }
    if mlp:
        values["intermediate_size"] = mlp.ffn
    return values


NAMES = {
    "embedding.weight": "backbone.embeddings.weight",
    "norm.weight": "backbone.norm_f.weight",
    "head.weight": "lm_head.weight",
}


def stored(config: DecoderConfig) -> list[Stored]:
    """Everything inside a layer keeps its name."""
    return [Stored(NAMES.get(name) or f"backbone.{name}", name) for name in config.tensors()]


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
            f"config.json contradicts itself: hybrid_override_pattern is {pattern}, layers_block_type spells {from_blocks}."
        )
    return from_pattern or from_blocks or ""


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


def _first(config: DecoderConfig, kind: type) -> Any:
    return next((layer for layer in config.layers if isinstance(layer, kind)), None)
