"""Llama 3 and Qwen 2.5: dense Transformers, as peers and teachers."""

from collections.abc import Mapping
from typing import Any

from amaru.models.decoder import DecoderConfig
from amaru.models.families.blocks import blocks, one_width, stored_blocks
from amaru.models.families.fields import MOST_LAYERS, Fields
from amaru.models.families.rotary import read_rope, write_rope
from amaru.models.families.stored import Stored
from amaru.nn.attention import Attention
from amaru.nn.mlp import MLP
from amaru.nn.rope import Llama3Scaling, NTKScaling, Rope

MODEL_TYPES = ("llama", "qwen2")
TIES_HEAD = True
LAYERS_PER_BLOCK = 2


def _shape(
    vocab: int,
    hidden: int,
    ffn: int,
    count: int,
    heads: tuple[int, int, int],
    rope: Rope,
    *,
    tied: bool,
    positions: int = 131072,
    bias: bool = False,
    norm_eps: float = 1e-5,
) -> DecoderConfig:
    query_heads, kv_heads, channels = heads
    attention = Attention(query_heads=query_heads, kv_heads=kv_heads, channels=channels, rope=rope, bias=bias)
    block = (attention, MLP(ffn=ffn, gated=True, activation="silu"))
    return DecoderConfig(vocab=vocab, hidden=hidden, layers=block * count, norm_eps=norm_eps, tied=tied, max_positions=positions)


def _llama(factor: float) -> Rope:
    return Rope(base=500000.0, scaling=Llama3Scaling(factor=factor, low=1.0, high=4.0, original=8192))


def presets() -> dict[str, DecoderConfig]:
    """Shapes as Meta and Qwen published them."""
    qwen = Rope(base=1000000.0)
    return {
        "llama-3.2-1b": _shape(128256, 2048, 8192, 16, (32, 8, 64), _llama(32.0), tied=True),
        "llama-3.2-3b": _shape(128256, 3072, 8192, 28, (24, 8, 128), _llama(32.0), tied=True),
        "llama-3.1-8b": _shape(128256, 4096, 14336, 32, (32, 8, 128), _llama(8.0), tied=False),
        "llama-3.1-70b": _shape(128256, 8192, 28672, 80, (64, 8, 128), _llama(8.0), tied=False),
        "qwen2.5-0.5b": _shape(151936, 896, 4864, 24, (14, 2, 64), qwen, tied=True, bias=True, norm_eps=1e-6, positions=32768),
        "qwen2.5-1.5b": _shape(151936, 1536, 8960, 28, (12, 2, 128), qwen, tied=True, bias=True, norm_eps=1e-6),
        "qwen2.5-7b": _shape(152064, 3584, 18944, 28, (28, 4, 128), qwen, tied=False, bias=True, norm_eps=1e-6),
        "qwen2.5-72b": _shape(152064, 8192, 29568, 80, (64, 8, 128), qwen, tied=False, bias=True, norm_eps=1e-5),
    }


# What is computed here; a config that says otherwise describes another function.
REQUIRED: dict[str, Any] = {"hidden_act": "silu", "mlp_bias": False, "use_sliding_window": False, "pretraining_tp": 1}


def read_config(values: Mapping[str, Any]) -> DecoderConfig:
    """`config.json` of model_type llama or qwen2; raises `CheckpointError` for what it asks beyond these."""
    fields, qwen = Fields(values), values.get("model_type") == "qwen2"
    fields.require("Qwen 2" if qwen else "Llama", REQUIRED | {"attention_bias": qwen})
    hidden, query_heads = fields.integer("hidden_size"), fields.integer("num_attention_heads")
    attention = Attention(
        query_heads=query_heads,
        kv_heads=fields.integer("num_key_value_heads", default=query_heads),
        channels=fields.integer("head_dim", default=max(1, hidden // query_heads)),
        rope=read_rope(values, base=10000.0),
        bias=qwen,
    )
    mlp = MLP(ffn=fields.integer("intermediate_size"), gated=True, activation="silu")
    return DecoderConfig(
        vocab=fields.integer("vocab_size"),
        hidden=hidden,
        layers=(attention, mlp) * fields.integer("num_hidden_layers", most=MOST_LAYERS),
        norm_eps=fields.number("rms_norm_eps", default=1e-6),
        tied=fields.flag("tie_word_embeddings"),
        max_positions=fields.integer("max_position_embeddings", default=2048),
    )


def refuses(config: DecoderConfig) -> str | None:
    """Why neither Llama's nor Qwen's config.json can say this stack."""
    found = blocks(config, (Attention, MLP))
    if isinstance(found, str):
        return f"Llama {found}"
    if not one_width(config.layers[::2]) or not one_width(config.layers[1::2]):
        return "Llama's config.json holds one width for all layers of a kind"
    attention, mlp = found[0]
    if config.norm != "rmsnorm" or config.meta_tokens or not mlp.gated or mlp.activation != "silu":
        return "Llama has RMSNorm, a gated SiLU MLP and no meta tokens"
    if not attention.bias and config.hidden % attention.query_heads:
        return "transformers wants Llama's hidden width to be a multiple of its query heads"
    if attention.rope is None or attention.rope.fraction != 1 or isinstance(attention.rope.scaling, NTKScaling):
        return "Llama rotates all channels of q and k, with Llama 3's scaling or none"
    return None


def write_config(config: DecoderConfig) -> dict[str, Any]:
    """The inverse of `read_config`: qwen2 where q, k and v have a bias, else llama."""
    attention, mlp = config.layers[:2]
    assert isinstance(attention, Attention) and isinstance(mlp, MLP) and attention.rope is not None
    kind, architecture = ("qwen2", "Qwen2ForCausalLM") if attention.bias else ("llama", "LlamaForCausalLM")
    return {
        "architectures": [architecture],
        "model_type": kind,
        "vocab_size": config.vocab,
        "hidden_size": config.hidden,
        "intermediate_size": mlp.ffn,
        "num_hidden_layers": len(config.layers) // 2,
        "num_attention_heads": attention.query_heads,
        "num_key_value_heads": attention.kv_heads,
        "head_dim": attention.channels,
        "rms_norm_eps": config.norm_eps,
        "max_position_embeddings": config.max_positions,
        "tie_word_embeddings": config.tied,
        "attention_bias": attention.bias,
        **({"use_sliding_window": False} if attention.bias else {"mlp_bias": False}),
        "hidden_act": "silu",
        **write_rope(attention.rope),
    }


NETWORK = {"embedding.weight": "model.embed_tokens.weight", "norm.weight": "model.norm.weight", "head.weight": "lm_head.weight"}
ATTENTION = {
    "norm.weight": "input_layernorm.weight",
    "mixer.o_proj.weight": "self_attn.o_proj.weight",
    **{f"mixer.{name}_proj.{what}": f"self_attn.{name}_proj.{what}" for name in "qkv" for what in ("weight", "bias")},
}
FEED_FORWARD = {
    "norm.weight": "post_attention_layernorm.weight",
    **{f"mixer.{name}_proj.weight": f"mlp.{name}_proj.weight" for name in ("gate", "up", "down")},
}


def stored(config: DecoderConfig) -> list[Stored]:
    return stored_blocks(config, NETWORK, (ATTENTION, FEED_FORWARD))


def canonical(name: str) -> str:
    return name
