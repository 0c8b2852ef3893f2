"""What a model costs, from its axes alone: parameters, bytes of weights, state and KV, FLOPs."""

from typing import Literal

from pydantic import Field

from amaru.axes import Axes, TensorSpec
from amaru.config import Config
from amaru.models.decoder import DecoderConfig
from amaru.nn.layer import elements

Format = Literal["fp32", "bf16", "fp16", "fp8", "int8", "int4", "nvfp4"]
BYTES: dict[str, float] = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "fp8": 1.0, "int8": 1.0, "int4": 0.5, "nvfp4": 4.5 / 8}


class Workload(Config):
    """What the model is to be run with: `Workload(context=4096, batch=8)`.

    context      tokens each sequence may reach
    batch        sequences at once
    weights, kv, state   storage formats: fp32, bf16, fp16, fp8, int8, int4, nvfp4 (4 bits and a scale per 16)
    """

    context: int = Field(default=4096, ge=0)
    batch: int = Field(default=1, gt=0)
    weights: Format = "bf16"
    kv: Format = "bf16"
    state: Literal["fp32", "bf16", "fp16"] = "fp32"


class Memory(Config):
    """Bytes by what they hold."""

    weights: int
    kv: int
    ssm_state: int
    conv_state: int

    @property
    def total(self) -> int:
        return self.weights + self.kv + self.ssm_state + self.conv_state


def parameters(config: DecoderConfig) -> int:
    """`parameters(config) == sum(p.numel() for p in Decoder(config).parameters())`, from the layouts alone."""
    return sum(spec.layout.numel(axes) for spec, axes in config.tensors().values())


def parameters_by_kind(config: DecoderConfig) -> dict[str, int]:
    """Parameters of the layers of each kind, of the embedding with the head, and of the final norm."""
    counts: dict[str, int] = {}
    for index, layer in enumerate(config.layers):
        counts[layer.kind] = counts.get(layer.kind, 0) + elements(config.layer_tensors(index), config.layer_axes(index))
    network = {name: spec.layout.numel(config.axes()) for name, spec in config.network_tensors().items()}
    return counts | {"embedding and head": sum(network.values()) - network["norm.weight"], "norm": network["norm.weight"]}


def kv_bytes_per_token(config: DecoderConfig, kv: str = "bf16") -> float:
    return BYTES[kv] * sum(elements(layer.cache_tensors(), layer.axes()) for layer in config.layers)


def memory(config: DecoderConfig, workload: Workload) -> Memory:
    """Bytes needed to hold the model and the state of every sequence of the workload.

    Tensors that always stay in fp32 count as such; KV grows with context, states do not (nemotron_h, section 1.6).
    """
    ssm = conv = 0.0
    for layer in config.layers:
        for name, spec in layer.state_tensors().items():
            stored = _bytes(spec, layer.axes(), workload.state if spec.keep_fp32 else "bf16")
            ssm, conv = (ssm + stored, conv) if name == "ssm" else (ssm, conv + stored)
    return Memory(
        weights=round(sum(_bytes(spec, axes, "fp32" if spec.keep_fp32 else workload.weights) for spec, axes in config.tensors().values())),
        kv=round(kv_bytes_per_token(config, workload.kv) * workload.context * workload.batch),
        ssm_state=round(ssm * workload.batch),
        conv_state=round(conv * workload.batch),
    )


def forward_flops(config: DecoderConfig, context: int) -> int:
    """FLOPs (a multiply-add is two) of one token that sees `context` tokens, head included."""
    return sum(layer.flops(config.hidden, context) for layer in config.layers) + 2 * config.vocab * config.hidden


def _bytes(spec: TensorSpec, axes: Axes, stored: str) -> float:
    return BYTES[stored] * spec.layout.numel(axes)
