"""The feed-forward layer: squared ReLU without a gate (Nemotron), or SiLU with one (Llama, Qwen, Hymba)."""

from dataclasses import replace
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from amaru.axes import Axes, Axis, TensorSpec
from amaru.nn.batch import Batch
from amaru.nn.layer import LayerConfig, Mixer, Probe, Reading, tensor
from amaru.nn.linear import Linear
from amaru.ops.gated_silu import gated_silu
from amaru.ops.pointwise import silu
from amaru.ops.squared_relu import squared_relu

Activation = Literal["relu2", "silu"]


def activate(x: Tensor, activation: Activation) -> Tensor:
    return squared_relu(x) if activation == "relu2" else silu(x)


def opened(gate: Tensor, x: Tensor, activation: Activation) -> Tensor:
    return gated_silu(gate, x) if activation == "silu" else activate(gate, activation) * x


class MLP(LayerConfig):
    """`MLP(ffn=21504)`: down(relu(up x)^2), as in Nemotron-H and Nemotron-4.

    `MLP(ffn=14336, gated=True, activation="silu")`: down(silu(gate x) * up x), as in Llama, Qwen and Hymba.
    """

    kind: Literal["mlp"] = "mlp"
    ffn: int = Field(gt=0)
    gated: bool = False
    activation: Activation = "relu2"

    letter: ClassVar[str] = "-"
    sharded: ClassVar[str] = "ffn"
    probes: ClassVar[dict[str, Probe]] = {"ffn": Probe(Reading("up_proj"))}

    def axes(self) -> Axes:
        return {"ffn": Axis(name="ffn", size=self.ffn)}

    def tensors(self) -> dict[str, TensorSpec]:
        gate = {"gate_proj.weight": tensor("ffn", "hidden")} if self.gated else {}
        return gate | {"up_proj.weight": tensor("ffn", "hidden"), "down_proj.weight": tensor("hidden", "ffn")}

    def resized(self, sizes: dict[str, int]) -> "MLP":
        return replace(self, ffn=sizes["ffn"])  # type: ignore[type-var]

    def flops(self, hidden: int, context: int) -> int:
        return (6 if self.gated else 4) * hidden * self.ffn

    def build(self, hidden: int, norm_eps: float) -> "MLPMixer":
        return MLPMixer(self, hidden)

    def describe(self) -> str:
        return f"ffn {self.ffn}" + (f", gated {self.activation}" if self.gated else "")


class MLPMixer(Mixer):
    config: MLP

    def __init__(self, config: MLP, hidden: int) -> None:
        super().__init__()
        self.config = config
        if config.gated:
            self.gate_proj = Linear(config.ffn, hidden)
        self.up_proj = Linear(config.ffn, hidden)
        self.down_proj = Linear(hidden, config.ffn)

    def forward(self, x: Tensor, batch: Batch, state: dict[str, Tensor] | None = None) -> Tensor:
        up = self.up_proj(x)
        if self.config.gated:
            return self.down_proj(opened(self.gate_proj(x), up, self.config.activation))
        return self.down_proj(activate(up, self.config.activation))

    @torch.no_grad()
    def initialise(self, generator: torch.Generator, std: float, residual_std: float) -> None:
        for proj in [self.gate_proj, self.up_proj] if self.config.gated else [self.up_proj]:
            proj.weight.normal_(0, std, generator=generator)
        self.down_proj.weight.normal_(0, residual_std, generator=generator)
