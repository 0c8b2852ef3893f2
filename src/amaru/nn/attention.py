"""Grouped-query attention; without position embedding in Nemotron-H, where the Mamba layers before it know the order."""

import math
from dataclasses import replace
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from amaru.axes import Axes, Axis, TensorSpec
from amaru.errors import ConfigError
from amaru.nn.batch import Batch
from amaru.nn.layer import LayerConfig, Mixer, Probe, Reading, tensor
from amaru.nn.linear import Linear
from amaru.nn.rope import Rope
from amaru.ops.attention import attention
from amaru.ops.page_write import page_write
from amaru.ops.paged_attention import NARROW, narrowed, paged_attention
from amaru.ops.rotary import rotary


class Attention(LayerConfig):
    """`Attention(query_heads=32, kv_heads=8, channels=128)`: causal, scaled by 1/sqrt(channels).

    rope    rotary position embedding of q and k; None: no position is embedded (Nemotron-H)
    bias    q, k and v have a bias (Qwen 2.5)
    """

    kind: Literal["attention"] = "attention"
    query_heads: int = Field(gt=0)
    kv_heads: int = Field(gt=0)
    channels: int = Field(gt=0)
    rope: Rope | None = None
    bias: bool = False

    letter: ClassVar[str] = "*"
    sharded: ClassVar[str] = "kv_group"
    probes: ClassVar[dict[str, Probe]] = {
        "query": Probe(Reading("o_proj", at_input=True), per=("kv_group",)),
        "kv_group": Probe(Reading("o_proj", at_input=True)),
    }

    def check(self) -> None:
        if self.rope:
            self.rope.rotated(self.channels)
        if self.query_heads % self.kv_heads:
            raise ConfigError(f"Attention.query_heads must be a multiple of kv_heads; got {self.query_heads} and {self.kv_heads}.")

    def axes(self) -> Axes:
        return {
            "kv_group": Axis(name="kv_group", size=self.kv_heads),
            "query": Axis(name="query", size=self.query_heads // self.kv_heads, parents=("kv_group",)),
            # Each rotary pair has a frequency of its own.
            "qk_channel": Axis(name="qk_channel", size=self.channels, parents=("kv_group",), fixed=self.rope is not None),
            "v_channel": Axis(name="v_channel", size=self.channels, parents=("kv_group",)),
        }

    def tensors(self) -> dict[str, TensorSpec]:
        rows = {"q_proj": "kv_group query qk_channel", "k_proj": "kv_group qk_channel", "v_proj": "kv_group v_channel"}
        named = {f"{name}.weight": tensor(layout, "hidden") for name, layout in rows.items()}
        if self.bias:
            named |= {f"{name}.bias": tensor(layout) for name, layout in rows.items()}
        return named | {"o_proj.weight": tensor("hidden", "kv_group query v_channel")}

    def cache_tensors(self) -> dict[str, TensorSpec]:
        return {"keys": tensor("kv_group", "qk_channel"), "values": tensor("kv_group", "v_channel")}

    def resized(self, sizes: dict[str, int]) -> "Attention":
        if sizes["qk_channel"] != sizes["v_channel"]:
            raise ConfigError(
                f"Attention keeps one width for qk_channel and v_channel; got {sizes['qk_channel']} and {sizes['v_channel']}."
            )
        heads = {"query_heads": sizes["kv_group"] * sizes["query"], "kv_heads": sizes["kv_group"]}
        return replace(self, **heads, channels=sizes["v_channel"])  # type: ignore[type-var]

    def flops(self, hidden: int, context: int) -> int:
        projections = 4 * hidden * self.channels * (self.query_heads + self.kv_heads)
        return projections + 4 * self.query_heads * self.channels * context

    @property
    def turned(self) -> tuple[Rope, int] | None:
        return (self.rope, self.channels) if self.rope else None

    def build(self, hidden: int, norm_eps: float) -> "AttentionMixer":
        return AttentionMixer(self, hidden)

    def describe(self) -> str:
        extras = [", RoPE" if self.rope else "", ", bias" if self.bias else ""]
        return f"{self.query_heads} query heads, {self.kv_heads} KV heads x {self.channels}" + "".join(extras)


class AttentionMixer(Mixer):
    config: Attention

    def __init__(self, config: Attention, hidden: int) -> None:
        super().__init__()
        self.config = config
        self.scale = 1 / math.sqrt(config.channels)
        self.q_proj = Linear(config.query_heads * config.channels, hidden, bias=config.bias)
        self.k_proj = Linear(config.kv_heads * config.channels, hidden, bias=config.bias)
        self.v_proj = Linear(config.kv_heads * config.channels, hidden, bias=config.bias)
        self.o_proj = Linear(hidden, config.query_heads * config.channels)

    def forward(self, x: Tensor, batch: Batch, state: dict[str, Tensor] | None = None) -> Tensor:
        q, k, v = (proj(x).unflatten(-1, (-1, self.config.channels)) for proj in (self.q_proj, self.k_proj, self.v_proj))
        if self.config.turned:
            turns = batch.turns(*self.config.turned, torch.promote_types(x.dtype, torch.float32))
            q, k = rotary(q, *turns), rotary(k, *turns)
        y = kept(k, v, batch, state, self.config.sight).attend(q, batch, scale=self.scale)
        return self.o_proj(y.flatten(-2))

    @torch.no_grad()
    def initialise(self, generator: torch.Generator, std: float, residual_std: float) -> None:
        for proj in (self.q_proj, self.k_proj, self.v_proj):
            proj.weight.normal_(0, std, generator=generator)
            if proj.bias is not None:
                proj.bias.fill_(0)
        self.o_proj.weight.normal_(0, residual_std, generator=generator)


class Packed(NamedTuple):
    """Keys (rotated, where there is a rotary embedding) and values of this batch alone: [T, kv_heads, channels]."""

    keys: Tensor
    values: Tensor

    def attend(self, q: Tensor, batch: Batch, **asked: Any) -> Tensor:
        """q [T, heads, channels] -> [T, heads, v]; each sequence sees its own places."""
        lengths = batch.lengths.tolist()
        return attention(q, self.keys.split(lengths), self.values.split(lengths), cu_seqlens=batch.cu_seqlens, **asked)


class Paged(NamedTuple):
    """The pages of all sequences [pages, page, kv_heads, channels], in which this batch's keys and values are already written.

    `scales` [pages, page, kv_heads] of both, where they are held in 8 bits.
    """

    keys: Tensor
    values: Tensor
    pages: Tensor
    scales: tuple[Tensor, Tensor] | None = None

    def attend(self, q: Tensor, batch: Batch, **asked: Any) -> Tensor:
        where = {"cu_seqlens": batch.cu_seqlens, "lengths": batch.ends, "scales": self.scales}
        return paged_attention(q, self.keys, self.values, self.pages, **where, **asked)


KV = Packed | Paged


def kept(k: Tensor, v: Tensor, batch: Batch, state: dict[str, Tensor] | None, sight: str) -> KV:
    """What queries of this batch attend to; with state, k and v join those of earlier batches in it."""
    if state is None or batch.pages is None:
        return Packed(k, v)
    pages = batch.pages[sight]
    narrow = state["keys"].dtype is NARROW
    for new, name in ((k, "keys"), (v, "values")):
        if narrow:
            new, scales = narrowed(new)
            page_write(scales[..., None], state[f"{name}_scales"][..., None], pages, batch.owners, batch.positions)
        page_write(new, state[name], pages, batch.owners, batch.positions)
    return Paged(state["keys"], state["values"], pages, (state["keys_scales"], state["values_scales"]) if narrow else None)
