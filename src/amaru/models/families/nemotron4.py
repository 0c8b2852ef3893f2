"""Nemotron-4 and Minitron: dense Transformers with squared ReLU, LayerNorm1P and half of each head rotating."""

from collections.abc import Mapping
from typing import Any

from amaru.models.decoder import DecoderConfig
from amaru.models.families import llama
from amaru.models.families.blocks import blocks, one_width, stored_blocks
from amaru.models.families.fields import MOST_LAYERS, Fields
from amaru.models.families.rotary import read_rope, write_rope
from amaru.models.families.stored import Stored
from amaru.nn.attention import Attention
from amaru.nn.mlp import MLP
from amaru.nn.rope import NTKScaling, Rope

MODEL_TYPES = ("nemotron",)
TIES_HEAD = True
LAYERS_PER_BLOCK = 2


def _shape(hidden: int, ffn: int, count: int, heads: tuple[int, int, int]) -> DecoderConfig:
    query_heads, kv_heads, channels = heads
    attention = Attention(query_heads=query_heads, kv_heads=kv_heads, channels=channels, rope=Rope(fraction=0.5))
    layers = (attention, MLP(ffn=ffn)) * count
    return DecoderConfig(vocab=256000, hidden=hidden, layers=layers, norm="layernorm1p", max_positions=4096)


def presets() -> dict[str, DecoderConfig]:
    """Published shapes; the 340B has 192 channels a head (nemotron4_340b, section 1.1)."""
    return {
        "nemotron-4-15b": _shape(6144, 24576, 32, (48, 8, 128)),
        "nemotron-4-340b": _shape(18432, 73728, 96, (96, 8, 192)),
        "minitron-4b": _shape(3072, 9216, 32, (24, 8, 128)),
        "minitron-8b": _shape(4096, 16384, 32, (48, 8, 128)),
    }


REQUIRED: dict[str, Any] = {"hidden_act": "relu2", "attention_bias": False, "mlp_bias": False}


def read_config(values: Mapping[str, Any]) -> DecoderConfig:
    """`config.json` of model_type nemotron. `num_key_value_heads` must be there: stock transformers cannot build a model without."""
    fields = Fields(values)
    fields.require("Nemotron", REQUIRED)
    hidden, query_heads = fields.integer("hidden_size"), fields.integer("num_attention_heads")
    attention = Attention(
        query_heads=query_heads,
        kv_heads=fields.integer("num_key_value_heads"),
        channels=fields.integer("head_dim", default=max(1, hidden // query_heads)),
        rope=read_rope(values, base=10000.0, fraction=0.5),
    )
    return DecoderConfig(
        vocab=fields.integer("vocab_size"),
        hidden=hidden,
        layers=(attention, MLP(ffn=fields.integer("intermediate_size"))) * fields.integer("num_hidden_layers", most=MOST_LAYERS),
        norm_eps=fields.number("norm_eps", default=1e-5),
        tied=fields.flag("tie_word_embeddings"),
        norm="layernorm1p",
        max_positions=fields.integer("max_position_embeddings", default=4096),
    )


def refuses(config: DecoderConfig) -> str | None:
    found = blocks(config, (Attention, MLP))
    if isinstance(found, str):
        return f"Nemotron-4 {found}"
    if not one_width(config.layers[::2]) or not one_width(config.layers[1::2]):
        return "Nemotron-4's config.json holds one width for all layers of a kind"
    attention, mlp = found[0]
    if config.norm != "layernorm1p" or config.meta_tokens or mlp != MLP(ffn=mlp.ffn):
        return "Nemotron-4 has LayerNorm1P, a squared-ReLU MLP without a gate and no meta tokens"
    if attention.bias or attention.rope is None or isinstance(attention.rope.scaling, NTKScaling):
        return "Nemotron-4 has rotary attention without bias"
    return None


def write_config(config: DecoderConfig) -> dict[str, Any]:
    attention, mlp = config.layers[:2]
    assert isinstance(attention, Attention) and isinstance(mlp, MLP) and attention.rope is not None
    rope = write_rope(attention.rope)
    rope["rope_parameters"]["partial_rotary_factor"] = rope["partial_rotary_factor"] = attention.rope.fraction  # stock assumes 0.5
    return {
        "architectures": ["NemotronForCausalLM"],
        "model_type": MODEL_TYPES[0],
        "vocab_size": config.vocab,
        "hidden_size": config.hidden,
        "intermediate_size": mlp.ffn,
        "num_hidden_layers": len(config.layers) // 2,
        "num_attention_heads": attention.query_heads,
        "num_key_value_heads": attention.kv_heads,
        "head_dim": attention.channels,
        "norm_eps": config.norm_eps,
        "max_position_embeddings": config.max_positions,
        "tie_word_embeddings": config.tied,
        **REQUIRED,
        **rope,
    }


NETWORK = llama.NETWORK | {"norm.bias": "model.norm.bias"}
ATTENTION = llama.ATTENTION | {"norm.bias": "input_layernorm.bias"}
FEED_FORWARD = llama.FEED_FORWARD | {"norm.bias": "post_attention_layernorm.bias"}


def stored(config: DecoderConfig) -> list[Stored]:
    return stored_blocks(config, NETWORK, (ATTENTION, FEED_FORWARD))


def canonical(name: str) -> str:
    return name
