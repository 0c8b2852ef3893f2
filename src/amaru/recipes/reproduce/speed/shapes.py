"""Shapes that papers compare with and that are no presets, and narrow copies of any shape that this machine can run."""

from collections.abc import Callable
from dataclasses import replace

import torch

from amaru.errors import ConfigError
from amaru.models.decoder import AnyLayer, Decoder, DecoderConfig
from amaru.models.families import config_of
from amaru.nn.attention import Attention
from amaru.nn.mamba2 import Mamba2
from amaru.nn.mlp import MLP
from amaru.nn.rope import Rope

VOCAB = 4096  # of narrow copies


def _transformer(
    vocab: int, hidden: int, heads: tuple[int, int, int], mlp: MLP, blocks: int, tied: bool, bias: bool = False
) -> DecoderConfig:
    query_heads, kv_heads, channels = heads
    attention = Attention(query_heads=query_heads, kv_heads=kv_heads, channels=channels, rope=Rope(), bias=bias)
    return DecoderConfig(vocab=vocab, hidden=hidden, layers=(attention, mlp) * blocks, tied=tied)


def _gated(ffn: int) -> MLP:
    return MLP(ffn=ffn, gated=True, activation="silu")


RIVALS: dict[str, Callable[[], DecoderConfig]] = {
    # Nemotron-H's own control, a Transformer of 8B on the same tokens (2504.03624, 2.1)
    "nemotron-t-8b": lambda: _transformer(131072, 4096, (32, 8, 128), MLP(ffn=21504), 32, tied=False),
    # config.json of the releases: microsoft/Phi-4-mini-instruct, Qwen/Qwen2.5-3B, HuggingFaceTB/SmolLM2-1.7B
    "phi-4-mini": lambda: _transformer(200064, 3072, (24, 8, 128), _gated(8192), 32, tied=True),
    "qwen2.5-3b": lambda: _transformer(151936, 2048, (16, 2, 128), _gated(11008), 36, tied=True, bias=True),
    "smollm2-1.7b": lambda: _transformer(49152, 2048, (32, 32, 64), _gated(8192), 24, tied=True),
}


def shape_of(name: str) -> DecoderConfig:
    """`shape_of("phi-4-mini")`, or any preset."""
    return RIVALS[name]() if name in RIVALS else config_of(name)


def reduced(config: DecoderConfig, divisor: int, vocab: int = VOCAB) -> DecoderConfig:
    """`reduced(config_of("nemotron-h-8b"), 16)`: every width a sixteenth, the stack as it is; states keep their channels.

    Heads are divided as far as their groups go, then the channels of a head, so that heads per group stay what they are.
    Raises `ConfigError` where a width does not divide.
    """
    layers = tuple(_reduced(layer, divisor) for layer in config.layers)
    return replace(config, vocab=vocab, hidden=_divided(config.hidden, divisor, "hidden"), layers=layers)


def drawn(config: DecoderConfig) -> Decoder:
    """Random weights in the dtypes that a checkpoint in bf16 is loaded with: A_log, D and dt_bias stay fp32."""
    decoder, tensors = Decoder(config).initialise(0), config.tensors()
    for name, parameter in decoder.named_parameters():
        if not tensors[name][0].keep_fp32:
            parameter.data = parameter.data.to(torch.bfloat16)
    return decoder.requires_grad_(False)


def _reduced(layer: AnyLayer, divisor: int) -> AnyLayer:
    if isinstance(layer, MLP):
        return replace(layer, ffn=_divided(layer.ffn, divisor, "ffn"))
    if isinstance(layer, Attention):
        fewer = min(divisor, layer.kv_heads)
        heads = {name: _divided(getattr(layer, name), fewer, name) for name in ("query_heads", "kv_heads")}
        return replace(layer, **heads, channels=_divided(layer.channels, divisor // fewer, "channels"))
    if isinstance(layer, Mamba2):
        fewer = min(divisor, layer.groups)
        heads = {name: _divided(getattr(layer, name), fewer, name) for name in ("heads", "groups")}
        return replace(layer, **heads, channels=_divided(layer.channels, divisor // fewer, "channels"))
    raise ConfigError(f"Layers of kind {layer.kind} have no narrow copy; attention, MLP and Mamba-2 have.")


def _divided(width: int, divisor: int, name: str) -> int:
    if width % divisor:
        raise ConfigError(f"{name} is {width}, which {divisor} does not divide; choose another divisor.")
    return width // divisor
