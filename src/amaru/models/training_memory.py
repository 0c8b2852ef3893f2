"""What training a model takes: bytes of weights, gradients, optimizer state, and of the activations that wait for the backward pass."""

from dataclasses import replace

from pydantic import Field

from amaru.config import Config
from amaru.models.decoder import AnyLayer, DecoderConfig
from amaru.models.tensor_parallel import check, layer_axes, layer_of, network_axes, vocabulary
from amaru.nn.attention import Attention
from amaru.nn.hybrid_head import HybridHead
from amaru.nn.layer import elements
from amaru.nn.mamba2 import Mamba2
from amaru.nn.mlp import MLP
from amaru.nn.moe import MoE

SCAN_CHUNK = 32  # tokens between two states that the selective scan keeps for its backward pass
HEAD_CHUNK = 1024  # tokens whose logits exist at a time, and their gradients (`head_loss`)


class TrainingMemory(Config):
    """Bytes of one process.

    gathered    where a batch is shared (FSDP2): whole layers, this one and the next, its gradient, and all outside the layers
    copies      weights cast to the compute dtype, which the backward pass reads again
    logits      those of one chunk and their gradients (which take their place, but in a tensor group), and what they add to the head's
    """

    weights: int
    gradients: int
    optimizer: int
    gathered: int
    copies: int
    activations: int
    logits: int
    total: int


class Footing(Config):
    """How a model is trained: `Footing(tokens=4096, bf16=True)`.

    tokens     that a process has at once
    recompute  layers keep their input only, and compute the rest again
    data       processes that share every batch, and with it weights, gradients and optimizer state
    tensor     processes that share every layer; with `sequence` also the tokens between the layers
    """

    tokens: int = Field(gt=0)
    bf16: bool = True
    recompute: bool = False
    data: int = Field(default=1, gt=0)
    tensor: int = Field(default=1, gt=0)
    sequence: bool = False


def training_memory(config: DecoderConfig, footing: Footing) -> TrainingMemory:
    """`training_memory(config, Footing(tokens=4096)).total`: of each process, with AdamW and fp32 master weights.

    Activations are what the layers save on a CPU, counted from their widths (a test measures it); allocators and kernels take
    somewhat more. Raises `ConfigError` when `tensor` processes do not divide a layer.
    """
    check(config, footing.tensor)
    outside, layers = _elements(config, footing.tensor)
    count, each = outside + sum(layers), 2 if footing.bf16 else 4
    part = replace(config, layers=tuple(layer_of(layer, footing.tensor) for layer in config.layers))
    chunk, vocab = min(footing.tokens, HEAD_CHUNK), len(vocabulary(config, 0, footing.tensor))
    shared = -(-count // footing.data)
    held = {
        "weights": 4 * shared,
        "gradients": 4 * shared,
        "optimizer": 8 * shared,
        "gathered": 3 * each * max(layers, default=0) + 2 * 4 * outside if footing.data > 1 else 0,
        "copies": (2 * count if footing.data == 1 else 2 * vocab * config.hidden) if footing.bf16 else 0,
        "activations": footing.tokens * _saved(part, footing, each),
        "logits": chunk * vocab * _logit(footing, each) + each * vocab * config.hidden,
    }
    return TrainingMemory(**held, total=sum(held.values()))


def _elements(config: DecoderConfig, tensor: int) -> tuple[int, list[int]]:
    """Parameters that one of `tensor` processes has, outside the layers and of each layer."""
    network = network_axes(config, tensor)
    layers = [elements(config.layer_tensors(index), network | layer_axes(layer, tensor)) for index, layer in enumerate(config.layers)]
    return elements(config.network_tensors(), network), layers


def _logit(footing: Footing, each: int) -> int:
    """Bytes of one logit while its gradient is made: beside others' logits it has an fp32 copy and an exponential."""
    return each if footing.tensor == 1 else 2 * 4 + (2 * each if footing.bf16 else 0)


def _saved(config: DecoderConfig, footing: Footing, each: int) -> int:
    """Bytes per token of all layers and the final norm; what a norm reads is a slice of the tokens where they are shared."""
    whole = each * config.hidden
    stream = -(-whole // footing.tensor) if footing.sequence else whole
    layers = [stream + whole + saved(layer, config.hidden, each) for layer in config.layers]
    if footing.recompute:
        return len(layers) * stream + max(layers, default=0) + stream + whole
    return sum(layers) + stream + whole


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
