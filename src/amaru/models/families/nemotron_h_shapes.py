"""The published shapes of Nemotron-H and Nemotron-3."""

from dataclasses import replace

from amaru.models.decoder import DecoderConfig
from amaru.models.pattern import layers_from_pattern
from amaru.nn.attention import Attention
from amaru.nn.layer import LayerConfig
from amaru.nn.mamba2 import Mamba2
from amaru.nn.mlp import MLP
from amaru.nn.moe import MoE

PATTERN_8B = "M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-"
PATTERN_47B = "M-M-M-M-M-M-M-M-M*-M-M-M-M-M-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-M-M---MM---M-M*-M-M-M-M-M-"
PATTERN_56B = "M-M-M-M*-" + "M-M-M-M-M*-" * 9 + "M-M-M-M-M-"
PATTERN_NANO_9B = "M-M-M-MM-M-M-M*-M-M-M*-M-M-M-M*-M-M-M-M*-M-MM-M-M-M-M-M-"
PATTERN_NANO_12B = "M-M-M-M*-" + "M-M-M-M*-" * 5 + "M-M-M-M-"
PATTERN_NANO_30B = "MEMEM*E" * 5 + "MEMEMEM*E" + "MEMEMEME"


def _shape(
    pattern: str, hidden: int, feed_forward: MLP | MoE, attention: tuple[int, int, int], mamba: tuple[int, int, int]
) -> DecoderConfig:
    query_heads, kv_heads, channels = attention
    heads, head_channels, state = mamba
    layers: dict[str, LayerConfig] = {
        "M": Mamba2(heads=heads, channels=head_channels, groups=8, state=state),
        "*": Attention(query_heads=query_heads, kv_heads=kv_heads, channels=channels),
        feed_forward.letter: feed_forward,
    }
    return DecoderConfig(vocab=131072, hidden=hidden, layers=layers_from_pattern(pattern, layers))  # type: ignore[arg-type]


def presets() -> dict[str, DecoderConfig]:
    """Published shapes by name (nemotron_h, sections 1.1 and 1.3).

    Nemotron-3 Nano: the config.json of nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16, which Megatron-LM's settings for that model
    (examples/post_training/modelopt/conf/nvidia) and Megatron Bridge's `Nemotron3NanoProvider` repeat; 31.6 B parameters.
    """
    experts = MoE(experts=128, top_k=6, ffn=1856, shared_ffn=3712, scale=2.5)
    nano_9b = _shape(PATTERN_NANO_9B, 4480, MLP(ffn=15680), (40, 8, 128), (128, 80, 128))
    nano_12b = _shape(PATTERN_NANO_12B, 5120, MLP(ffn=20480), (40, 8, 128), (128, 80, 128))
    nano = _shape(PATTERN_NANO_30B, 2688, experts, (32, 2, 128), (64, 64, 128))
    return {
        "nemotron-h-4b": _shape(PATTERN_8B, 3072, MLP(ffn=12288), (32, 8, 128), (112, 64, 128)),
        "nemotron-h-8b": _shape(PATTERN_8B, 4096, MLP(ffn=21504), (32, 8, 128), (128, 64, 128)),
        "nemotron-h-47b": _shape(PATTERN_47B, 8192, MLP(ffn=30720), (64, 8, 128), (256, 64, 256)),
        "nemotron-h-56b": _shape(PATTERN_56B, 8192, MLP(ffn=32768), (64, 8, 128), (256, 64, 256)),
        "nemotron-nano-9b-v2": replace(nano_9b, max_positions=131072),
        "nemotron-nano-12b-v2": replace(nano_12b, max_positions=131072),
        "nemotron-3-nano-30b-a3b": replace(nano, max_positions=262144),
    }
