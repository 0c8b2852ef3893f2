"""What a model costs, from its axes alone: parameters, bytes of weights, state and KV, FLOPs."""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

from pydantic import Field

from amaru.axes import Axes, TensorSpec
from amaru.axes.expression import Leaf
from amaru.config import Config
from amaru.models.decoder import AnyLayer, DecoderConfig
from amaru.models.tensor_parallel import check, layer_axes, network_axes
from amaru.nn.layer import LayerConfig, elements

Format = Literal["fp32", "bf16", "fp16", "fp8", "int8", "int4", "nvfp4"]
BYTES: dict[str, float] = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "fp8": 1.0, "int8": 1.0, "int4": 4.5 / 8, "nvfp4": 4.5 / 8}
WIDE = ("fp32", "bf16", "fp16")
VOCABULARY = ("embedding.weight", "head.weight")


class Workload(Config):
    """What the model is to be run with: `Workload(context=4096, batch=8)`.

    context      tokens each sequence may reach; meta tokens come on top
    batch        sequences at once
    weights      format of the weights: fp32, bf16, fp16, fp8, int8, int4 (4 bits and 16 per 32), nvfp4 (4 bits and 8 per 16). One below
                 16 bits holds the matrices of layers only: norms, convolutions and biases are then bf16
    embedding    format of embedding and head; None: that of the weights, or bf16 where that is below 16 bits
    kv           format of keys and values, the same choice
    state, conv  formats of the SSM state and of the convolution's

    A_log, D and dt_bias are fp32 always. Scales of fp8 and int8 are not counted: of weights well below 1 %, of fp8 keys
    and values 2 bytes for each head of a place, 1.6 % at 128 channels.
    """

    context: int = Field(default=4096, ge=0)
    batch: int = Field(default=1, gt=0)
    weights: Format = "bf16"
    embedding: Format | None = None
    kv: Format = "bf16"
    state: Literal["fp32", "bf16", "fp16"] = "fp32"
    conv: Literal["fp32", "bf16", "fp16"] = "bf16"

    @property
    def wide(self) -> str:
        """The format of what a narrow one does not hold."""
        return self.weights if self.weights in WIDE else "bf16"

    @property
    def vocabulary(self) -> str:
        """The format of embedding and head."""
        return self.embedding or self.wide

    def describe(self) -> str:
        """`weights fp8 (embedding and head bf16), KV bf16, SSM state fp32`"""
        apart = f" (embedding and head {self.vocabulary})" if self.vocabulary != self.weights else ""
        return f"weights {self.weights}{apart}, KV {self.kv}, SSM state {self.state}"


class Memory(Config):
    """Bytes by what they hold; `kv_meta` are the rows of meta tokens, which come on top of the context's."""

    weights: int
    kv: int
    kv_meta: int
    ssm_state: int
    conv_state: int

    @property
    def sequences(self) -> int:
        """Bytes of all but the weights: what the sequences keep."""
        return self.kv + self.kv_meta + self.ssm_state + self.conv_state

    @property
    def total(self) -> int:
        return self.weights + self.sequences


def parameters(config: DecoderConfig) -> int:
    """`parameters(config) == sum(p.numel() for p in Decoder(config).parameters())`, from the layouts alone."""
    return sum(spec.layout.numel(axes) * count for _, spec, axes, count in _tensors(config, 1))


def active_parameters(config: DecoderConfig, tokens: int = 1) -> int:
    """Parameters that so many tokens use: all but experts that none of them is sent to, if routing is even."""
    return parameters(config) - sum(layer.idle(config.hidden, tokens) for layer in config.layers)


def parameters_by_kind(config: DecoderConfig) -> dict[str, int]:
    """Parameters of the layers of each kind, of embedding and head, of meta tokens where there are some, of the final norm."""
    counts: dict[str, int] = {}
    for layer, axes, count in _layers(config, 1):
        counts[layer.kind] = counts.get(layer.kind, 0) + count * elements(_layer_tensors(config, layer), axes)
    groups = {"embedding and head": VOCABULARY, "meta tokens": ("meta_tokens",), "norm": tuple(config.norm_tensors())}
    network = config.network_tensors()
    for group, names in groups.items():
        if held := {name: network[name] for name in names if name in network}:
            counts[group] = elements(held, config.axes())
    return counts


def kv_bytes_per_token(config: DecoderConfig, kv: str = "bf16") -> float:
    """Bytes that one more token takes in all caches, while no window is full."""
    return BYTES[kv] * sum(elements(layer.cache_tensors(), axes) * count for layer, axes, count in _layers(config, 1))


def memory(config: DecoderConfig, workload: Workload, devices: int = 1) -> Memory:
    """Bytes that each of `devices` needs under tensor parallelism, to hold the model and the state of every sequence.

    KV grows with the context, where there is a window up to its width, and stays nothing in layers that read another's; states
    do not grow (nemotron_h, section 1.6). Activations come on top. Raises `ConfigError` when the devices do not divide the layers.
    """
    check(config, devices)
    tensors = _tensors(config, devices)
    weights = sum(BYTES[_stored(name, spec, workload)] * spec.layout.numel(axes) * count for name, spec, axes, count in tensors)
    kv = meta = ssm = conv = 0.0
    for layer, axes, count in _layers(config, devices):
        row = BYTES[workload.kv] * elements(layer.cache_tensors(), axes) * count
        kv, meta = kv + row * layer.cached(workload.context), meta + row * config.meta_tokens
        states = {name: spec.layout.numel(axes) * count for name, spec in layer.state_tensors().items()}
        ssm, conv = ssm + BYTES[workload.state] * states.get("ssm", 0), conv + BYTES[workload.conv] * states.get("conv", 0)
    kept = {"kv": kv, "kv_meta": meta, "ssm_state": ssm, "conv_state": conv}
    return Memory(weights=round(weights), **{name: round(held * workload.batch) for name, held in kept.items()})


class Flops(NamedTuple):
    """FLOPs (a multiply-add is two) by what does them: layers apart from attention, scores and values, the head."""

    layers: int
    attention: int
    head: int

    @property
    def total(self) -> int:
        return sum(self)


def forward_flops(config: DecoderConfig, context: int) -> int:
    """FLOPs of one token that sees `context` tokens, itself among them; head included."""
    return step_flops(config, context).total


def training_flops(config: DecoderConfig, context: int) -> int:
    """FLOPs to learn from one token that sees `context` tokens: forward, and twice that backward; what is run again is not counted."""
    return 3 * forward_flops(config, context)


def step_flops(config: DecoderConfig, context: int) -> Flops:
    """`forward_flops` by what does them."""
    return _flops(config, 1, lambda layer: layer.visible(context + config.meta_tokens))


def prompt_flops(config: DecoderConfig, context: int) -> Flops:
    """FLOPs to prefill `context` tokens behind the meta tokens, whose state is computed once for all prompts; logits of the last only."""
    first, end = config.meta_tokens, config.meta_tokens + context
    return _flops(config, context, lambda layer: _seen(layer, end) - _seen(layer, first))


def _flops(config: DecoderConfig, tokens: int, attended: Callable[[LayerConfig], int]) -> Flops:
    """Of `tokens` tokens which in each layer attend to so many, all together; FLOPs are linear in that number."""
    projections = scores = 0
    for layer, count in Counter(config.layers).items():
        alone = layer.flops(config.hidden, 0)
        projections += count * alone * tokens
        scores += count * (layer.flops(config.hidden, 1) - alone) * attended(layer)
    return Flops(projections, scores, 2 * config.vocab * config.hidden)


def _seen(layer: LayerConfig, tokens: int) -> int:
    """How many tokens the first, second, ... of `tokens` tokens attend to, all together."""
    limit = layer.visible(tokens)
    return limit * (limit + 1) // 2 + (tokens - limit) * limit


def _layers(config: DecoderConfig, devices: int) -> Iterator[tuple[AnyLayer, Axes, int]]:
    """Each distinct layer, its axes and the network's as one of `devices` holds them, and how often it occurs."""
    network = network_axes(config, devices)
    for layer, count in Counter(config.layers).items():
        yield layer, network | layer_axes(layer, devices), count


def _tensors(config: DecoderConfig, devices: int) -> Iterator[tuple[str, TensorSpec, Axes, int]]:
    """Parameters by name, layout, axes and how often they occur."""
    for name, spec in config.network_tensors().items():
        yield name, spec, network_axes(config, devices), 1
    for layer, axes, count in _layers(config, devices):
        for name, spec in _layer_tensors(config, layer).items():
            yield name, spec, axes, count


def _layer_tensors(config: DecoderConfig, layer: LayerConfig) -> dict[str, TensorSpec]:
    return config.norm_tensors() | {f"mixer.{name}": spec for name, spec in layer.tensors().items()}


def _stored(name: str, spec: TensorSpec, workload: Workload) -> str:
    """The format that a tensor has: of the weights, of the vocabulary, or a wide one."""
    if spec.keep_fp32:
        return "fp32"
    if name in VOCABULARY:
        return workload.vocabulary
    return workload.weights if name.startswith("mixer.") and is_matrix(spec) else workload.wide


def is_matrix(spec: TensorSpec) -> bool:
    """Vectors and convolutions are none."""
    dimensions = spec.layout.dimensions
    return len(dimensions) > 1 and dimensions[-1] != Leaf("tap")
