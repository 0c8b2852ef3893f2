"""What a GGUF file says of the stack, in llama.cpp's words: feed-forward widths and KV heads are lists, one entry a layer."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from amaru.errors import CheckpointError, ConfigError
from amaru.models.decoder import DecoderConfig
from amaru.models.families.fields import MOST_LAYERS
from amaru.nn.attention import Attention
from amaru.nn.layer import LayerConfig
from amaru.nn.mamba2 import Mamba2
from amaru.nn.mlp import MLP
from amaru.nn.moe import MoE

DENSE, EXPERTS = "nemotron_h", "nemotron_h_moe"  # llama.cpp's two architectures: with MLPs, or with experts in their place
UNIFORM = "pad it to one width first (amaru convert --uniform)"


def architecture(config: DecoderConfig) -> str:
    return EXPERTS if _of(config, MoE) else DENSE


def refuses(config: DecoderConfig) -> str | None:
    """Why llama.cpp cannot hold this stack; None when it can.

    It keeps a feed-forward width and head counts for each layer, one width for all Mamba layers, and one head width.
    """
    for index, layer in enumerate(config.layers):
        if not _is_plain(layer):
            return f"no layer of llama.cpp's {DENSE} is like layer {index} ({layer.kind}: {layer.describe()})"
    if config.norm != "rmsnorm" or config.meta_tokens:
        return f"a stack for llama.cpp's {DENSE} has RMSNorm and no meta tokens"
    mamba, attention, experts = (_of(config, kind) for kind in (Mamba2, Attention, MoE))
    if not mamba or not attention:
        return f"a stack for llama.cpp's {DENSE} needs Mamba and attention layers, and this one has {len(mamba)} and {len(attention)}"
    if any(layer.time_step_limit != (0.0, math.inf) for layer in mamba):
        return f"GGUF cannot say that dt is clamped, and this model clamps it to {mamba[0].time_step_limit}"
    widths = {replace(layer, chunk_size=1) for layer in mamba}
    if len(widths) > 1:
        return f"GGUF holds one width for all Mamba layers, and this model has {len(widths)}; {UNIFORM}"
    channels = {layer.channels for layer in attention}
    if len(channels) > 1:
        return f"GGUF holds one head width for all attention layers, and this model has {len(channels)}; {UNIFORM}"
    if len(set(experts)) > 1 or (experts and _of(config, MLP)):
        return "GGUF holds one shape for all feed-forward layers of a stack with experts, and here they differ"
    return None


def write_metadata(config: DecoderConfig) -> dict[str, Any]:
    """The keys of `config`; raises `CheckpointError` for a stack that `refuses`."""
    if reason := refuses(config):
        raise CheckpointError(f"This model cannot be written as GGUF: {reason}.")
    mamba, attention, experts = _of(config, Mamba2)[0], _of(config, Attention), _of(config, MoE)
    heads = [layer.query_heads for layer in attention]
    values = {
        "block_count": len(config.layers),
        "context_length": config.max_positions,
        "embedding_length": config.hidden,
        "vocab_size": config.vocab,
        # Layers of other kinds have no heads, but llama.cpp reads the head width only where the first entry is not 0.
        "attention.head_count": heads[0] if len(set(heads)) == 1 else [getattr(layer, "query_heads", heads[0]) for layer in config.layers],
        "attention.head_count_kv": [getattr(layer, "kv_heads", 0) for layer in config.layers],
        "attention.key_length": attention[0].channels,
        "attention.value_length": attention[0].channels,
        "attention.layer_norm_epsilon": config.norm_eps,
        "attention.layer_norm_rms_epsilon": config.norm_eps,
        "feed_forward_length": [getattr(layer, "ffn", 0) for layer in config.layers],
        "ssm.conv_kernel": mamba.taps,
        "ssm.inner_size": mamba.inner,
        "ssm.state_size": mamba.state,
        "ssm.time_step_rank": mamba.heads,
        "ssm.group_count": mamba.groups,
    }
    name = architecture(config)
    return {f"{name}.{key}": value for key, value in (values | (_write_experts(experts[0]) if experts else {})).items()}


def _write_experts(layer: MoE) -> dict[str, Any]:
    values = {
        "expert_count": layer.experts,
        "expert_used_count": layer.top_k,
        "expert_feed_forward_length": layer.ffn,
        "expert_shared_count": 1,
        "expert_shared_feed_forward_length": layer.shared_ffn,
        "expert_group_count": layer.groups,
        "expert_group_used_count": layer.top_groups,
        "expert_weights_norm": layer.normalised,
        "expert_weights_scale": layer.scale,
    }
    return values if layer.latent is None else values | {"moe_latent_size": layer.latent}


def read_metadata(values: Mapping[str, Any], tied: bool) -> DecoderConfig:
    """The inverse; a layer without KV heads and feed-forward width is a Mamba layer. Raises `CheckpointError`."""
    name = values.get("general.architecture")
    if name not in (DENSE, EXPERTS):
        raise CheckpointError(f"The metadata names the architecture {str(name)[:80]}; amaru reads GGUF files of {DENSE} and {EXPERTS}.")
    keys = _Keys(values, name)
    count = keys.value("block_count", lambda value: type(value) is int and 0 < value <= MOST_LAYERS, f"1 to {MOST_LAYERS}")
    listed = ("attention.head_count", "attention.head_count_kv", "feed_forward_length")
    try:
        widths = zip(*(keys.each(key, count) for key in listed), strict=True)
        return DecoderConfig(
            vocab=keys.integer("vocab_size"),
            hidden=keys.integer("embedding_length"),
            layers=tuple(_layer(keys, *width) for width in widths),  # type: ignore[arg-type]
            norm_eps=keys.decimal("attention.layer_norm_rms_epsilon"),
            tied=tied,
            max_positions=keys.integer("context_length"),
        )
    except ConfigError as error:
        raise CheckpointError(f"The metadata describes no model: {error}") from None


class _Keys:
    """Values under an architecture's name, each checked as it is asked for."""

    def __init__(self, values: Mapping[str, Any], architecture: str) -> None:
        self.values, self.architecture = values, architecture

    def value(self, key: str, is_right: Callable[[Any], bool], wanted: str) -> Any:
        value = self.values.get(f"{self.architecture}.{key}")
        if not is_right(value):
            raise CheckpointError(f"The metadata sets {self.architecture}.{key} to {str(value)[:80]}; {wanted} is needed.")
        return value

    def integer(self, key: str) -> int:
        return self.value(key, lambda value: type(value) is int and value > 0, "a positive whole number")

    def flag(self, key: str) -> bool:
        return self.value(key, lambda value: type(value) is bool, "true or false")

    def decimal(self, key: str) -> float:
        """A float32 as people wrote it: 1e-05, not 9.99999974e-06."""
        return float(str(np.float32(self.value(key, lambda value: type(value) is float, "a number"))))

    def each(self, key: str, count: int) -> list[int]:
        """One for each layer; a single number stands for all."""
        found = self.value(key, lambda value: type(value) is int or _is_list(value, count), "one number, or one for each layer,")
        return [found] * count if isinstance(found, int) else found

    def has(self, key: str) -> bool:
        return f"{self.architecture}.{key}" in self.values


def _layer(keys: _Keys, heads: int, kv_heads: int, ffn: int) -> LayerConfig:
    if ffn:
        return MLP(ffn=ffn) if keys.architecture == DENSE else _experts(keys)
    if kv_heads:
        return Attention(query_heads=heads, kv_heads=kv_heads, channels=keys.integer("attention.key_length"))
    rank = keys.integer("ssm.time_step_rank")
    return Mamba2(
        heads=rank,
        channels=keys.integer("ssm.inner_size") // rank,
        groups=keys.integer("ssm.group_count"),
        state=keys.integer("ssm.state_size"),
        taps=keys.integer("ssm.conv_kernel"),
    )


def _experts(keys: _Keys) -> MoE:
    return MoE(
        experts=keys.integer("expert_count"),
        top_k=keys.integer("expert_used_count"),
        ffn=keys.integer("expert_feed_forward_length"),
        shared_ffn=keys.integer("expert_shared_feed_forward_length"),
        groups=keys.integer("expert_group_count"),
        top_groups=keys.integer("expert_group_used_count"),
        normalised=keys.flag("expert_weights_norm"),
        scale=keys.decimal("expert_weights_scale"),
        latent=keys.integer("moe_latent_size") if keys.has("moe_latent_size") else None,
    )


def _is_plain(layer: LayerConfig) -> bool:
    match layer:
        case Mamba2() | MoE():
            return True
        case Attention():
            return layer.rope is None and not layer.bias
        case MLP():
            return not layer.gated and layer.activation == "relu2"
    return False


def _of(config: DecoderConfig, kind: type) -> list[Any]:
    return [layer for layer in config.layers if isinstance(layer, kind)]


def _is_list(value: Any, count: int) -> bool:
    return isinstance(value, list) and len(value) == count and all(type(entry) is int and entry >= 0 for entry in value)
