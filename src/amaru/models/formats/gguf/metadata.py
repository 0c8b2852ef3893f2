"""What a GGUF file says of the stack, in the words of llama.cpp's nemotron_h: feed-forward and KV widths are lists, one entry a layer."""

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

ARCHITECTURE = "nemotron_h"
UNIFORM = "pad it to one width first (amaru convert --uniform)"


def refuses(config: DecoderConfig) -> str | None:
    """Why llama.cpp's nemotron_h cannot hold this stack; None when it can.

    It keeps a feed-forward width and head counts for each layer, one width for all Mamba layers, and one head width.
    """
    for index, layer in enumerate(config.layers):
        if not _is_plain(layer):
            return f"llama.cpp's {ARCHITECTURE} has no layer like layer {index} ({layer.kind}: {layer.describe()})"
    if config.norm != "rmsnorm" or config.meta_tokens:
        return f"llama.cpp's {ARCHITECTURE} has RMSNorm and no meta tokens"
    mamba, attention = _of(config, Mamba2), _of(config, Attention)
    if not mamba or not attention:
        return f"llama.cpp's {ARCHITECTURE} needs Mamba and attention layers, and this stack has {len(mamba)} and {len(attention)}"
    if any(layer.time_step_limit != (0.0, math.inf) for layer in mamba):
        return f"GGUF cannot say that dt is clamped, and this model clamps it to {mamba[0].time_step_limit}"
    widths = {replace(layer, chunk_size=1) for layer in mamba}
    if len(widths) > 1:
        return f"GGUF holds one width for all Mamba layers, and this model has {len(widths)}; {UNIFORM}"
    channels = {layer.channels for layer in attention}
    if len(channels) > 1:
        return f"GGUF holds one head width for all attention layers, and this model has {len(channels)}; {UNIFORM}"
    return None


def write_metadata(config: DecoderConfig) -> dict[str, Any]:
    """The keys of `config`; raises `CheckpointError` for a stack that `refuses`."""
    if reason := refuses(config):
        raise CheckpointError(f"This model cannot be written as GGUF: {reason}.")
    mamba, attention = _of(config, Mamba2)[0], _of(config, Attention)
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
    return {f"{ARCHITECTURE}.{name}": value for name, value in values.items()}


def read_metadata(values: Mapping[str, Any], tied: bool) -> DecoderConfig:
    """The inverse; a layer without KV heads and feed-forward width is a Mamba layer. Raises `CheckpointError`."""
    if values.get("general.architecture") != ARCHITECTURE:
        found = str(values.get("general.architecture"))[:80]
        raise CheckpointError(f"The metadata names the architecture {found}; amaru reads GGUF files of {ARCHITECTURE}.")

    def integer(name: str) -> int:
        return _value(values, name, lambda value: type(value) is int and value > 0, "a positive whole number")

    count = _value(values, "block_count", lambda value: type(value) is int and 0 < value <= MOST_LAYERS, f"1 to {MOST_LAYERS}")

    def each(name: str) -> list[int]:
        found = _value(values, name, lambda value: type(value) is int or _fits(value, count), "one number, or one for each layer,")
        return [found] * count if isinstance(found, int) else found

    def layer(heads: int, kv_heads: int, ffn: int) -> LayerConfig:
        if ffn:
            return MLP(ffn=ffn)
        if kv_heads:
            return Attention(query_heads=heads, kv_heads=kv_heads, channels=integer("attention.key_length"))
        rank, groups = integer("ssm.time_step_rank"), integer("ssm.group_count")
        channels = integer("ssm.inner_size") // rank
        return Mamba2(heads=rank, channels=channels, groups=groups, state=integer("ssm.state_size"), taps=integer("ssm.conv_kernel"))

    try:
        widths = zip(each("attention.head_count"), each("attention.head_count_kv"), each("feed_forward_length"), strict=True)
        return DecoderConfig(
            vocab=integer("vocab_size"),
            hidden=integer("embedding_length"),
            layers=tuple(layer(*width) for width in widths),  # type: ignore[arg-type]
            norm_eps=_decimal(_value(values, "attention.layer_norm_rms_epsilon", lambda value: type(value) is float, "a number")),
            tied=tied,
            max_positions=integer("context_length"),
        )
    except ConfigError as error:
        raise CheckpointError(f"The metadata describes no model: {error}") from None


def _is_plain(layer: LayerConfig) -> bool:
    match layer:
        case Mamba2():
            return True
        case Attention():
            return layer.rope is None and not layer.bias
        case MLP():
            return not layer.gated and layer.activation == "relu2"
    return False


def _of(config: DecoderConfig, kind: type) -> list[Any]:
    return [layer for layer in config.layers if isinstance(layer, kind)]


def _value(values: Mapping[str, Any], name: str, is_right: Callable[[Any], bool], wanted: str) -> Any:
    value = values.get(f"{ARCHITECTURE}.{name}")
    if not is_right(value):
        raise CheckpointError(f"The metadata sets {ARCHITECTURE}.{name} to {str(value)[:80]}; {wanted} is needed.")
    return value


def _fits(value: Any, count: int) -> bool:
    return isinstance(value, list) and len(value) == count and all(type(entry) is int and entry >= 0 for entry in value)


def _decimal(value: float) -> float:
    """A float32 as people wrote it: 1e-05, not 9.99999974e-06."""
    return float(str(np.float32(value)))
