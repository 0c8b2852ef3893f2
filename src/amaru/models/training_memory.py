"""What training a model takes: bytes of weights, gradients, optimizer state, and of the activations that wait for the backward pass."""

from pydantic import Field

from amaru.config import Config
from amaru.models.cost import parameters
from amaru.models.decoder import AnyLayer, DecoderConfig
from amaru.nn.attention import Attention
from amaru.nn.hybrid_head import HybridHead
from amaru.nn.mamba2 import Mamba2
from amaru.nn.mlp import MLP
from amaru.nn.moe import MoE

SCAN_CHUNK = 32  # tokens between two states that the selective scan keeps for its backward pass
HEAD_CHUNK = 1024  # tokens whose logits exist at a time, and their gradients (`head_loss`)


class TrainingMemory(Config):
    """Bytes; `copies` are weights cast to the compute dtype, which the backward pass reads again; `logits` those of one chunk."""

    weights: int
    gradients: int
    optimizer: int
    copies: int
    activations: int
    logits: int
    total: int


class Footing(Config):
    """How a model is trained: `Footing(tokens=4096, bf16=True)` tokens at once; with `recompute` layers keep their input only."""

    tokens: int = Field(gt=0)
    bf16: bool = True
    recompute: bool = False


def training_memory(config: DecoderConfig, footing: Footing) -> TrainingMemory:
    """`training_memory(config, Footing(tokens=4096)).total`: on one device, with AdamW and fp32 master weights.

    Activations are what the layers save on a CPU, counted from their widths (a test measures it); allocators and kernels take
    somewhat more.
    """
    count, each = parameters(config), 2 if footing.bf16 else 4
    chunk = min(footing.tokens, HEAD_CHUNK)
    held = {
        "weights": 4 * count,
        "gradients": 4 * count,
        "optimizer": 8 * count,
        "copies": 2 * count if footing.bf16 else 0,
        "activations": footing.tokens * _saved(config, footing, each),
        "logits": 2 * 4 * chunk * config.vocab,
    }
    return TrainingMemory(**held, total=sum(held.values()))


def _saved(config: DecoderConfig, footing: Footing, each: int) -> int:
    """Bytes per token of all layers and the final norm."""
    stream = each * config.hidden
    layers = [2 * stream + saved(layer, config.hidden, each) for layer in config.layers]
    if footing.recompute:
        return len(layers) * stream + max(layers, default=0) + 2 * stream
    return sum(layers) + 2 * stream


def saved(layer: AnyLayer, hidden: int, each: int) -> int:
    """Bytes per token that a mixer keeps for its gradients beside its input, with activations of `each` bytes."""
    match layer:
        case Mamba2():
            inner, grouped = layer.heads * layer.channels, 2 * layer.groups * layer.state
            projected = 2 * inner + grouped + layer.heads
            return each * (projected + inner + grouped + 2 * inner) + 8 * layer.heads  # in_proj, convolution, scan, norm; dt in fp32
        case Attention():
            queries, keys = layer.query_heads * layer.channels, layer.kv_heads * layer.channels
            return 4 * 2 * (queries + keys) + each * queries  # q, k, v and the output in fp32; the output as o_proj reads it
        case MLP():
            return each * layer.ffn * (4 if layer.gated else 2)
        case MoE():
            width = layer.latent or hidden
            routed = each * layer.top_k * (2 * width + 2 * layer.ffn)
            router = 12 * layer.experts + (4 * hidden if each < 4 else 0)
            return routed + router + each * (2 * layer.shared_ffn + (2 * width if layer.latent else 0))
        case HybridHead():
            inner, low = layer.inner, layer.rank + 2 * layer.state
            projected = layer.query_heads * layer.qk_channels + layer.kv_heads * (layer.qk_channels + layer.v_channels) + 2 * inner
            attended = 8 * (inner + layer.kv_heads * layer.v_channels)  # q and k as wide as v, v and the output, in fp32
            scanned = 8 * inner + 4 * inner * layer.state // SCAN_CHUNK  # the step in fp32, and the state now and then
            return each * (projected + 6 * inner + 2 * low) + attended + scanned
