"""Hymba's parallel heads: attention and a Mamba-1 head read one projection side by side; their normed outputs are averaged."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from amaru.axes import Axes, Axis, TensorSpec, part
from amaru.errors import ConfigError
from amaru.nn.attention import KV, kept
from amaru.nn.batch import Batch
from amaru.nn.layer import LayerConfig, Mixer, Probe, Reading, fp32, tensor
from amaru.nn.linear import Linear
from amaru.nn.mamba2 import CausalConv, carried, keep
from amaru.nn.norm import RMSNorm
from amaru.nn.rope import Rope
from amaru.ops.add import add
from amaru.ops.causal_conv1d import causal_conv1d
from amaru.ops.conv_step import conv_step
from amaru.ops.exactness import is_exact
from amaru.ops.pointwise import silu, softplus
from amaru.ops.rotary import rotary
from amaru.ops.selective_scan import selective_scan
from amaru.ops.selective_step import Inputs, selective_step

INNER = "kv_group query v_channel"
State = dict[str, Tensor] | None


class HybridHead(LayerConfig):
    """`HybridHead(query_heads=25, kv_heads=5, qk_channels=64, v_channels=128, state=16, rank=100)`: one mixer of Hymba 1.5B.

    query_heads, kv_heads      of the attention side
    qk_channels, v_channels    width of a head's q and k, and of its v; query_heads * v_channels is the inner width, which
                               the Mamba side has too, so that both outputs can be averaged
    state, rank, taps          the Mamba side: state per channel, width of the step's low-rank projection, convolution
    window, sinks              a query sees keys at most `window` tokens back, and always the first `sinks`; None: all
    rope                       of q and k; places count meta tokens
    shares_kv                  no k and v of its own: reads those of the nearest HybridHead before it that owns some
    """

    kind: Literal["hybrid_head"] = "hybrid_head"
    query_heads: int = Field(gt=0)
    kv_heads: int = Field(gt=0)
    qk_channels: int = Field(gt=0)
    v_channels: int = Field(gt=0)
    state: int = Field(default=16, gt=0)
    rank: int = Field(gt=0)
    taps: int = Field(default=4, gt=1)
    window: int | None = Field(default=None, gt=0)
    sinks: int = Field(default=0, ge=0)
    rope: Rope | None = None
    shares_kv: bool = False

    letter: ClassVar[str] = "H"
    sharded: ClassVar[str] = "kv_group"
    probes: ClassVar[dict[str, Probe]] = {
        "v_channel": Probe(Reading("out_proj", at_input=True)),
        "query": Probe(Reading("out_proj", at_input=True), per=("kv_group",)),
        "kv_group": Probe(Reading("out_proj", at_input=True)),
        "state": Probe(Reading("B_norm"), Reading("C_norm")),
    }

    def check(self) -> None:
        if self.query_heads % self.kv_heads:
            raise ConfigError(f"HybridHead.query_heads must be a multiple of kv_heads; got {self.query_heads} and {self.kv_heads}.")
        if self.rope:
            self.rope.rotated(self.qk_channels)

    @property
    def inner(self) -> int:
        return self.query_heads * self.v_channels

    @property
    def cache_shape(self) -> tuple[int, int, int]:
        """What a layer must agree in with the one whose keys and values it shares."""
        return self.kv_heads, self.qk_channels, self.v_channels

    def axes(self) -> Axes:
        return {
            "kv_group": Axis(name="kv_group", size=self.kv_heads),
            "query": Axis(name="query", size=self.query_heads // self.kv_heads, parents=("kv_group",)),
            "qk_channel": Axis(name="qk_channel", size=self.qk_channels, parents=("kv_group",), fixed=self.rope is not None),
            "v_channel": Axis(name="v_channel", size=self.v_channels, parents=("kv_group",)),
            "state": Axis(name="state", size=self.state),
            "rank": Axis(name="rank", size=self.rank),
            "tap": Axis(name="tap", size=self.taps, fixed=True),
            "lag": Axis(name="lag", size=self.taps - 1, fixed=True),
            "unit": Axis(name="unit", size=1, fixed=True),
        }

    def tensors(self) -> dict[str, TensorSpec]:
        own = "" if self.shares_kv else "k: kv_group qk_channel | v: kv_group v_channel | "
        return {
            "in_proj.weight": tensor(f"q: kv_group query qk_channel | {own}x: {INNER} | gate: {INNER}", "hidden"),
            "conv1d.weight": tensor(INNER, "unit", "tap"),
            "conv1d.bias": tensor(INNER),
            "x_proj.weight": tensor("dt: rank | B: state | C: state", INNER),
            "dt_norm.weight": tensor("rank"),
            "B_norm.weight": tensor("state"),
            "C_norm.weight": tensor("state"),
            "dt_proj.weight": tensor(INNER, "rank"),
            "dt_bias": fp32(INNER),
            "A_log": fp32(INNER, "state"),
            "D": fp32(INNER),
            "attention_norm.weight": tensor(INNER),
            "ssm_norm.weight": tensor(INNER),
            "out_proj.weight": tensor("hidden", INNER),
        }

    def state_tensors(self) -> dict[str, TensorSpec]:
        return {"conv": tensor(INNER, "lag"), "ssm": fp32(INNER, "state")}

    def cache_tensors(self) -> dict[str, TensorSpec]:
        return {} if self.shares_kv else {"keys": tensor("kv_group", "qk_channel"), "values": tensor("kv_group", "v_channel")}

    @property
    def turned(self) -> tuple[Rope, int] | None:
        return (self.rope, self.qk_channels) if self.rope else None

    @property
    def needs(self) -> tuple["HybridHead", ...]:
        return (replace(self, shares_kv=False),) if self.shares_kv else ()  # type: ignore[type-var]

    @property
    def sight(self) -> str:
        return "all" if self.window is None else "window"

    def cached(self, context: int) -> int:
        return context if self.window is None else min(context, self.window)

    def visible(self, context: int) -> int:
        return context if self.window is None else min(context, self.window + 1 + self.sinks)

    def resized(self, sizes: dict[str, int]) -> "HybridHead":
        return replace(  # type: ignore[type-var]
            self,
            query_heads=sizes["kv_group"] * sizes["query"],
            kv_heads=sizes["kv_group"],
            qk_channels=sizes["qk_channel"],
            v_channels=sizes["v_channel"],
            state=sizes["state"],
            rank=sizes["rank"],
        )

    def flops(self, hidden: int, context: int) -> int:
        rows = self.query_heads * self.qk_channels + 2 * self.inner
        rows += 0 if self.shares_kv else self.kv_heads * (self.qk_channels + self.v_channels)
        projections = 2 * hidden * (rows + self.inner) + 2 * self.inner * (2 * self.rank + 2 * self.state)
        attended = 2 * self.query_heads * (self.qk_channels + self.v_channels) * self.visible(context)
        return projections + attended + 2 * self.taps * self.inner + 6 * self.inner * self.state

    def build(self, hidden: int, norm_eps: float) -> "HybridHeadMixer":
        return HybridHeadMixer(self, hidden, norm_eps)

    def describe(self) -> str:
        heads = f"{self.query_heads} query heads x {self.qk_channels}, {self.kv_heads} KV heads x {self.v_channels}"
        sight = "sees all" if self.window is None else f"window {self.window}"
        return f"{heads}, Mamba {self.inner} x {self.state}, {sight}" + (", shared KV" if self.shares_kv else "")


class HybridHeadMixer(Mixer):
    """u [T, hidden] -> [T, hidden]: W_out (beta1 norm(attention) + beta2 norm(mamba)) / 2 (Hymba, eq. 1 to 3)."""

    config: HybridHead

    def __init__(self, config: HybridHead, hidden: int, norm_eps: float) -> None:
        super().__init__()
        self.config = config
        self.scale = 1 / math.sqrt(config.qk_channels)
        projected = config.tensors()["in_proj.weight"].layout.dimensions[0]
        names = ("q", "x", "gate") if config.shares_kv else ("q", "k", "v", "x", "gate")
        self.rows = {name: part(projected, name, config.axes())[0] for name in names}
        self.in_proj = Linear(self.rows["gate"].stop, hidden)
        self.conv1d = CausalConv(config.inner, config.taps)
        self.x_proj = Linear(config.rank + 2 * config.state, config.inner)
        self.dt_norm = RMSNorm(config.rank, norm_eps)
        self.B_norm = RMSNorm(config.state, norm_eps)
        self.C_norm = RMSNorm(config.state, norm_eps)
        self.dt_proj = Linear(config.inner, config.rank)
        self.dt_bias = nn.Parameter(torch.empty(config.inner))
        self.A_log = nn.Parameter(torch.empty(config.inner, config.state))
        self.D = nn.Parameter(torch.empty(config.inner))
        self.attention_norm = RMSNorm(config.inner, norm_eps)
        self.ssm_norm = RMSNorm(config.inner, norm_eps)
        self.out_proj = Linear(hidden, config.inner)

    def forward(
        self, u: Tensor, batch: Batch, state: dict[str, Tensor] | None = None, kv: KV | None = None
    ) -> tuple[Tensor, KV | None]:
        """Also returns the keys and values that were read, for a later layer that shares them."""
        widths = [where.stop - where.start for where in self.rows.values()]
        rows = dict(zip(self.rows, self.in_proj(u).split(widths, dim=1), strict=True))  # slices would add a gradient each
        kv = kv if self.config.shares_kv else self._own_kv(rows["k"], rows["v"], batch, state)
        attended = self._attend(rows["q"], kv, batch)
        scanned = self._mamba(rows["x"], rows["gate"], batch, state)
        return self.out_proj(add(self.attention_norm(attended), self.ssm_norm(scanned), scale=0.5)), kv

    def _own_kv(self, k: Tensor, v: Tensor, batch: Batch, state: dict[str, Tensor] | None) -> KV:
        k, v = (each.unflatten(-1, (self.config.kv_heads, -1)) for each in (k, v))
        return kept(self._rotated(k, batch), v, batch, state, self.config.sight)

    def _attend(self, q: Tensor, kv: KV | None, batch: Batch) -> Tensor:
        assert kv is not None, "a layer that shares keys and values runs behind the one that owns them"
        q = self._rotated(q.unflatten(-1, (self.config.query_heads, -1)), batch)
        return kv.attend(q, batch, scale=self.scale, window=self.config.window, sinks=self.config.sinks).flatten(-2)

    def _rotated(self, heads: Tensor, batch: Batch) -> Tensor:
        if not self.config.turned:
            return heads
        return rotary(heads, *batch.turns(*self.config.turned, torch.promote_types(heads.dtype, torch.float32)))

    def _mamba(self, x: Tensor, gate: Tensor, batch: Batch, state: State) -> Tensor:
        """The Mamba side, gated."""
        x = _parted(self._convolve_few, self._convolve, batch, state, x)
        return _parted(self._scan_few, self._scan, batch, state, x, *self._selected(x), gate)

    def _convolve_few(self, batch: Batch, state: dict[str, Tensor], x: Tensor) -> Tensor:
        assert batch.slots is not None, "a state is addressed by slots"
        return conv_step(x, state["conv"], batch.slots, batch.fresh, self.conv1d.weight, self.conv1d.bias, batch.cu_seqlens)

    def _convolve(self, batch: Batch, state: State, x: Tensor) -> Tensor:
        asked = {"cu_seqlens": batch.cu_seqlens, "return_states": state is not None, "initial_states": carried("conv", batch, state)}
        x, conv = causal_conv1d(x, self.conv1d.weight.squeeze(1), self.conv1d.bias, **asked)
        keep("conv", conv, batch, state)
        return x

    def _scan_few(self, batch: Batch, state: dict[str, Tensor], *inputs: Tensor) -> Tensor:
        assert batch.slots is not None, "a state is addressed by slots"
        weights = self.dt_bias, self.A_log, self.D
        return selective_step(Inputs(*inputs), state["ssm"], batch.slots, batch.fresh, *weights, batch.cu_seqlens)

    def _scan(self, batch: Batch, state: State, x: Tensor, dt: Tensor, B: Tensor, C: Tensor, gate: Tensor) -> Tensor:
        asked = {"cu_seqlens": batch.cu_seqlens, "return_states": state is not None, "initial_states": carried("ssm", batch, state)}
        step = softplus(dt.to(self.dt_bias.dtype) + self.dt_bias)
        y, ssm = selective_scan(x, step, -torch.exp(self.A_log), B, C, self.D, **asked)
        keep("ssm", ssm, batch, state)
        return y * silu(gate)

    def _selected(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """dt before its bias, B and C: what the state forgets, takes up and gives, as the token decides."""
        dt, B, C = self.x_proj(x).split([self.config.rank, self.config.state, self.config.state], dim=-1)
        return self.dt_proj(self.dt_norm(dt)), self.B_norm(B), self.C_norm(C)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator, std: float, residual_std: float) -> None:
        """Attention as elsewhere; the Mamba side as Mamba does: A = 1 ... state, dt log-uniform in [1e-3, 1e-1], D one."""
        for proj in (self.in_proj, self.x_proj):
            proj.weight.normal_(0, std, generator=generator)
        self.out_proj.weight.normal_(0, residual_std, generator=generator)
        taps, rank = 1 / math.sqrt(self.config.taps), 1 / math.sqrt(self.config.rank)
        for parameter, bound in ((self.conv1d.weight, taps), (self.conv1d.bias, taps), (self.dt_proj.weight, rank)):
            parameter.uniform_(-bound, bound, generator=generator)
        self.A_log.copy_(torch.arange(1, self.config.state + 1).log().expand_as(self.A_log))
        dt = torch.empty_like(self.dt_bias).uniform_(math.log(1e-3), math.log(1e-1), generator=generator).exp()
        self.dt_bias.copy_(dt + torch.log(-torch.expm1(-dt)))
        self.D.fill_(1)
        for norm in (self.dt_norm, self.B_norm, self.C_norm, self.attention_norm, self.ssm_norm):
            norm.initialise()


def _parted(few: Callable[..., Tensor], whole: Callable[..., Tensor], batch: Batch, state: State, *rows: Tensor) -> Tensor:
    """Sequences of a few tokens that lead a batch with state go a shorter way. Projections never do: adapters know rows of all of it."""
    if state is None or not batch.short or is_exact():
        return whole(batch, state, *rows)
    if batch.short == len(batch.lengths):
        return few(batch, state, *rows)
    place = len(rows[0]) - len(batch.longer.ids)
    parts = few(batch.shorter, state, *(each[:place] for each in rows)), whole(batch.longer, state, *(each[place:] for each in rows))
    return torch.cat(parts)
