"""Grouped-query attention without position embedding (Nemotron-H: the Mamba layers before it know the order)."""

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from amaru.axes import Axes, Axis, TensorSpec
from amaru.errors import ConfigError
from amaru.nn.batch import Batch
from amaru.nn.layer import LayerConfig, Mixer, tensor
from amaru.nn.linear import Linear
from amaru.ops.attention import attention


class Attention(LayerConfig):
    """`Attention(query_heads=32, kv_heads=8, channels=128)`: causal, scaled by 1/sqrt(channels), no bias."""

    kind: Literal["attention"] = "attention"
    query_heads: int = Field(gt=0)
    kv_heads: int = Field(gt=0)
    channels: int = Field(gt=0)

    letter: ClassVar[str] = "*"

    def check(self) -> None:
        if self.query_heads % self.kv_heads:
            raise ConfigError(f"Attention.query_heads must be a multiple of kv_heads; got {self.query_heads} and {self.kv_heads}.")

    def axes(self) -> Axes:
        return {
            "kv_group": Axis(name="kv_group", size=self.kv_heads),
            "query": Axis(name="query", size=self.query_heads // self.kv_heads, parents=("kv_group",)),
            "qk_channel": Axis(name="qk_channel", size=self.channels, parents=("kv_group",)),
            "v_channel": Axis(name="v_channel", size=self.channels, parents=("kv_group",)),
        }

    def tensors(self) -> dict[str, TensorSpec]:
        return {
            "q_proj.weight": tensor("kv_group query qk_channel", "hidden"),
            "k_proj.weight": tensor("kv_group qk_channel", "hidden"),
            "v_proj.weight": tensor("kv_group v_channel", "hidden"),
            "o_proj.weight": tensor("hidden", "kv_group query v_channel"),
        }

    def cache_tensors(self) -> dict[str, TensorSpec]:
        return {"keys": tensor("kv_group", "qk_channel"), "values": tensor("kv_group", "v_channel")}

    def resized(self, sizes: dict[str, int]) -> "Attention":
        if sizes["qk_channel"] != sizes["v_channel"]:
            raise ConfigError(
                f"Attention keeps one width for qk_channel and v_channel; got {sizes['qk_channel']} and {sizes['v_channel']}."
            )
        return Attention(query_heads=sizes["kv_group"] * sizes["query"], kv_heads=sizes["kv_group"], channels=sizes["v_channel"])

    def flops(self, hidden: int, context: int) -> int:
        projections = 4 * hidden * self.channels * (self.query_heads + self.kv_heads)
        return projections + 4 * self.query_heads * self.channels * context

    def build(self, hidden: int, norm_eps: float) -> "AttentionMixer":
        return AttentionMixer(self, hidden)

    def describe(self) -> str:
        return f"{self.query_heads} query heads, {self.kv_heads} KV heads x {self.channels}"


class AttentionMixer(Mixer):
    config: Attention

    def __init__(self, config: Attention, hidden: int) -> None:
        super().__init__()
        self.config = config
        self.scale = 1 / math.sqrt(config.channels)
        self.q_proj = Linear(config.query_heads * config.channels, hidden)
        self.k_proj = Linear(config.kv_heads * config.channels, hidden)
        self.v_proj = Linear(config.kv_heads * config.channels, hidden)
        self.o_proj = Linear(hidden, config.query_heads * config.channels)

    def forward(self, x: Tensor, batch: Batch, state: dict[str, Tensor] | None = None) -> Tensor:
        q, k, v = (proj(x).unflatten(-1, (-1, self.config.channels)) for proj in (self.q_proj, self.k_proj, self.v_proj))
        keys, values = self._seen(k, v, batch, state)
        y = attention(q, keys, values, cu_seqlens=batch.cu_seqlens, scale=self.scale)
        return self.o_proj(y.flatten(-2))

    def _seen(self, k: Tensor, v: Tensor, batch: Batch, state: dict[str, Tensor] | None) -> tuple[list[Tensor], list[Tensor]]:
        """Keys and values that each sequence sees: those of this batch, behind the cached ones when there is state."""
        lengths = batch.lengths
        if state is None or batch.slots is None:
            return list(k.split(lengths.tolist())), list(v.split(lengths.tolist()))
        token_slots = batch.slots.repeat_interleave(lengths)
        state["keys"][token_slots, batch.positions] = k.to(state["keys"].dtype)
        state["values"][token_slots, batch.positions] = v.to(state["values"].dtype)
        ends = (batch.positions[batch.cu_seqlens[1:] - 1] + 1).tolist()
        return tuple(  # type: ignore[return-value]
            [state[name][slot, :end].to(k.dtype) for slot, end in zip(batch.slots.tolist(), ends, strict=True)]
            for name in ("keys", "values")
        )

    @torch.no_grad()
    def initialise(self, generator: torch.Generator, std: float, residual_std: float) -> None:
        for proj in (self.q_proj, self.k_proj, self.v_proj):
            proj.weight.normal_(0, std, generator=generator)
        self.o_proj.weight.normal_(0, residual_std, generator=generator)
