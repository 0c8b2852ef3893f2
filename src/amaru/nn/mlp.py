"""Squared-ReLU MLP without a gate: down(relu(up(x))^2)."""

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from amaru.axes import Axes, Axis, TensorSpec
from amaru.nn.batch import Batch
from amaru.nn.layer import LayerConfig, Mixer, Probe, tensor
from amaru.nn.linear import Linear


class MLP(LayerConfig):
    """`MLP(ffn=21504)`: the feed-forward layer of Nemotron-H and Nemotron-4."""

    kind: Literal["mlp"] = "mlp"
    ffn: int = Field(gt=0)

    letter: ClassVar[str] = "-"
    probes: ClassVar[dict[str, Probe]] = {"ffn": Probe("up_proj")}

    def axes(self) -> Axes:
        return {"ffn": Axis(name="ffn", size=self.ffn)}

    def tensors(self) -> dict[str, TensorSpec]:
        return {"up_proj.weight": tensor("ffn", "hidden"), "down_proj.weight": tensor("hidden", "ffn")}

    def resized(self, sizes: dict[str, int]) -> "MLP":
        return MLP(ffn=sizes["ffn"])

    def flops(self, hidden: int, context: int) -> int:
        return 4 * hidden * self.ffn

    def build(self, hidden: int, norm_eps: float) -> "MLPMixer":
        return MLPMixer(self, hidden)

    def describe(self) -> str:
        return f"ffn {self.ffn}"


class MLPMixer(Mixer):
    def __init__(self, config: MLP, hidden: int) -> None:
        super().__init__()
        self.config = config
        self.up_proj = Linear(config.ffn, hidden)
        self.down_proj = Linear(hidden, config.ffn)

    def forward(self, x: Tensor, batch: Batch, state: dict[str, Tensor] | None = None) -> Tensor:
        return self.down_proj(F.relu(self.up_proj(x)).square())

    @torch.no_grad()
    def initialise(self, generator: torch.Generator, std: float, residual_std: float) -> None:
        self.up_proj.weight.normal_(0, std, generator=generator)
        self.down_proj.weight.normal_(0, residual_std, generator=generator)
