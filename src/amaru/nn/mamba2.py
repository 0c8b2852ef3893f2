"""The Mamba-2 mixer as Nemotron-H has it: groups of heads that share B and C, gate first, then a norm per group."""

import math
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from amaru.axes import Axes, Axis, TensorSpec, part
from amaru.errors import ConfigError
from amaru.nn.batch import Batch
from amaru.nn.layer import LayerConfig, Mixer, Probe, Reading, fp32, tensor
from amaru.nn.linear import Linear
from amaru.ops.causal_conv1d import causal_conv1d
from amaru.ops.exactness import is_exact
from amaru.ops.gated_rmsnorm import gated_rmsnorm
from amaru.ops.mamba2_step import Weights, mamba2_step
from amaru.ops.ssd import ssd

INNER = "group head channel"
CONV_ROWS = f"x: {INNER} | B: group state | C: group state"


class Mamba2(LayerConfig):
    """`Mamba2(heads=128, channels=64, groups=8, state=128)`: the widths of one mixer.

    heads, channels     heads in all groups together, and the width of each; the inner width is their product
    groups, state       B and C exist once per group, each `state` wide
    taps                length of the causal convolution
    time_step_limit     dt is clamped to this range after softplus; (0, inf) leaves it alone
    chunk_size          tokens per chunk of the scan; changes speed, not the function
    """

    kind: Literal["mamba2"] = "mamba2"
    heads: int = Field(gt=0)
    channels: int = Field(gt=0)
    groups: int = Field(gt=0)
    state: int = Field(gt=0)
    taps: int = Field(default=4, gt=1)
    time_step_limit: tuple[float, float] = (0.0, math.inf)
    chunk_size: int = Field(default=128, gt=0)

    letter: ClassVar[str] = "M"
    sharded: ClassVar[str] = "group"
    probes: ClassVar[dict[str, Probe]] = {
        "channel": Probe(Reading("in_proj", "x")),
        "head": Probe(Reading("in_proj", "x"), per=("group",)),
        "group": Probe(Reading("in_proj", "x")),
        "state": Probe(Reading("in_proj", "B"), Reading("in_proj", "C"), per=("group",)),
    }

    def check(self) -> None:
        if self.heads % self.groups:
            raise ConfigError(f"Mamba2.heads must be a multiple of groups; got {self.heads} and {self.groups}.")
        low, high = self.time_step_limit
        if not 0 <= low < high:
            raise ConfigError(f"Mamba2.time_step_limit must be two rising numbers from 0 on; got {low:g} and {high:g}.")

    @property
    def inner(self) -> int:
        return self.heads * self.channels

    def axes(self) -> Axes:
        return {
            "group": Axis(name="group", size=self.groups),
            "head": Axis(name="head", size=self.heads // self.groups, parents=("group",)),
            "channel": Axis(name="channel", size=self.channels, parents=("group", "head")),
            "state": Axis(name="state", size=self.state, parents=("group",)),
            "tap": Axis(name="tap", size=self.taps, fixed=True),
            "lag": Axis(name="lag", size=self.taps - 1, fixed=True),
            "unit": Axis(name="unit", size=1, fixed=True),
        }

    def tensors(self) -> dict[str, TensorSpec]:
        return {
            "in_proj.weight": tensor(f"z: {INNER} | {CONV_ROWS} | dt: group head", "hidden"),
            "conv1d.weight": tensor(CONV_ROWS, "unit", "tap"),
            "conv1d.bias": tensor(CONV_ROWS),
            "A_log": fp32("group head"),
            "D": fp32("group head"),
            "dt_bias": fp32("group head"),
            "norm.weight": tensor(INNER),
            "out_proj.weight": tensor("hidden", INNER),
        }

    def state_tensors(self) -> dict[str, TensorSpec]:
        return {"conv": tensor(CONV_ROWS, "lag"), "ssm": fp32("group head", "channel", "state")}

    def resized(self, sizes: dict[str, int]) -> "Mamba2":
        return Mamba2(
            heads=sizes["group"] * sizes["head"],
            channels=sizes["channel"],
            groups=sizes["group"],
            state=sizes["state"],
            taps=self.taps,
            time_step_limit=self.time_step_limit,
            chunk_size=self.chunk_size,
        )

    def flops(self, hidden: int, context: int) -> int:
        rows = 2 * self.inner + 2 * self.groups * self.state + self.heads
        conv = 2 * self.taps * (self.inner + 2 * self.groups * self.state)
        return 2 * hidden * (rows + self.inner) + conv + 6 * self.inner * self.state

    def build(self, hidden: int, norm_eps: float) -> "Mamba2Mixer":
        return Mamba2Mixer(self, hidden, norm_eps)

    def describe(self) -> str:
        return f"{self.heads} heads x {self.channels}, {self.groups} groups, state {self.state}"


class CausalConv(nn.Module):
    """Parameters of the depthwise convolution: weight [rows, 1, taps], bias [rows]."""

    def __init__(self, rows: int, taps: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, 1, taps))
        self.bias = nn.Parameter(torch.empty(rows))


class GatedNorm(nn.Module):
    """Weight [inner] of the gated norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))


class Mamba2Mixer(Mixer):
    """u [T, hidden] -> [T, hidden]; equations in the order of the figure of Nemotron-H's mixer."""

    config: Mamba2

    def __init__(self, config: Mamba2, hidden: int, norm_eps: float) -> None:
        super().__init__()
        self.config = config
        self.norm_eps = norm_eps
        projected = config.tensors()["in_proj.weight"].layout.dimensions[0]
        self.rows = {name: part(projected, name, config.axes())[0] for name in ("z", "x", "B", "C", "dt")}
        conv_rows = self.rows["C"].stop - self.rows["x"].start
        self.in_proj = Linear(self.rows["dt"].stop, hidden)
        self.conv1d = CausalConv(conv_rows, config.taps)
        self.A_log = nn.Parameter(torch.empty(config.heads))
        self.D = nn.Parameter(torch.empty(config.heads))
        self.dt_bias = nn.Parameter(torch.empty(config.heads))
        self.norm = GatedNorm(config.inner)
        self.out_proj = Linear(hidden, config.inner)

    def forward(self, u: Tensor, batch: Batch, state: dict[str, Tensor] | None = None) -> Tensor:
        return self.out_proj(self._mix(self.in_proj(u), batch, state))

    def _mix(self, projected: Tensor, batch: Batch, state: dict[str, Tensor] | None) -> Tensor:
        """What lies between the projections; sequences of a few tokens that lead a batch with state go a shorter way, which is exact."""
        if state is None or not (batch.short or is_exact()):
            return self._whole(projected, batch, state)
        if is_exact() or batch.short == len(batch.lengths):
            return self._steps(projected, batch, state)
        few, more = projected.tensor_split([len(projected) - len(batch.longer.ids)])
        return torch.cat([self._steps(few, batch.shorter, state), self._whole(more, batch.longer, state)])

    def _steps(self, projected: Tensor, batch: Batch, state: dict[str, Tensor]) -> Tensor:
        assert batch.slots is not None, "a state is addressed by slots"
        conv, norm, config = self.conv1d, self.norm, self.config
        own = Weights(
            conv.weight, conv.bias, self.dt_bias, self.A_log, self.D, norm.weight, config.groups, self.norm_eps, config.time_step_limit
        )
        return mamba2_step(projected, state["conv"], state["ssm"], batch.slots, batch.fresh, own, batch.cu_seqlens)

    def _whole(self, projected: Tensor, batch: Batch, state: dict[str, Tensor] | None) -> Tensor:
        z, xBC, dt = self._split(projected)
        x, B, C = self._conv(xBC, batch, state)
        y = self._scan(x, self._time_step(dt), B, C, batch, state)
        return gated_rmsnorm(y, z, self.norm.weight, groups=self.config.groups, eps=self.norm_eps)

    def _split(self, projected: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        z, x, dt = (self.rows[name].start for name in ("z", "x", "dt"))
        return projected.split([x - z, dt - x, projected.shape[1] - dt], dim=1)  # type: ignore[return-value]  # slices would add three gradients

    def _time_step(self, dt: Tensor) -> Tensor:
        dt = F.softplus(dt.to(self.dt_bias.dtype) + self.dt_bias)
        return dt if self.config.time_step_limit == (0.0, math.inf) else dt.clamp(*self.config.time_step_limit)

    def _conv(self, xBC: Tensor, batch: Batch, state: dict[str, Tensor] | None) -> tuple[Tensor, Tensor, Tensor]:
        weight, bias = self.conv1d.weight.squeeze(1), self.conv1d.bias
        initial = carried("conv", batch, state)
        xBC, final = causal_conv1d(xBC, weight, bias, cu_seqlens=batch.cu_seqlens, initial_states=initial, return_states=state is not None)
        keep("conv", final, batch, state)
        width = self.config.groups * self.config.state
        x, B, C = xBC.split([self.config.inner, width, width], dim=-1)
        return (
            x.unflatten(-1, (self.config.heads, -1)),
            B.unflatten(-1, (self.config.groups, -1)),
            C.unflatten(-1, (self.config.groups, -1)),
        )

    def _scan(self, x: Tensor, dt: Tensor, B: Tensor, C: Tensor, batch: Batch, state: dict[str, Tensor] | None) -> Tensor:
        initial = carried("ssm", batch, state)
        y, final = ssd(
            x,
            dt,
            -torch.exp(self.A_log),
            B,
            C,
            self.D,
            cu_seqlens=batch.cu_seqlens,
            initial_states=None if initial is None else initial.to(self.A_log.dtype),
            return_states=state is not None,
            chunk_size=self.config.chunk_size,
        )
        keep("ssm", final, batch, state)
        return y.flatten(-2)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator, std: float, residual_std: float) -> None:
        """As Megatron does: A uniform in [1, 16], dt log-uniform in [1e-3, 1e-1], D one, taps uniform in +-1/sqrt(taps)."""
        self.in_proj.weight.normal_(0, std, generator=generator)
        self.out_proj.weight.normal_(0, residual_std, generator=generator)
        bound = 1 / math.sqrt(self.config.taps)
        self.conv1d.weight.uniform_(-bound, bound, generator=generator)
        self.conv1d.bias.uniform_(-bound, bound, generator=generator)
        self.A_log.uniform_(1, 16, generator=generator).log_()
        dt = torch.empty_like(self.dt_bias).uniform_(math.log(1e-3), math.log(1e-1), generator=generator).exp()
        self.dt_bias.copy_(dt + torch.log(-torch.expm1(-dt)))
        self.D.fill_(1)
        self.norm.weight.fill_(1)


def carried(name: str, batch: Batch, state: dict[str, Tensor] | None) -> Tensor | None:
    """[S, ...] what each sequence of the batch left in this state; zero for one that begins here."""
    if state is None:
        return None
    held = state[name][batch.slots]
    return held.masked_fill(batch.fresh.view(-1, *[1] * (held.ndim - 1)), 0)


def keep(name: str, final: Tensor | None, batch: Batch, state: dict[str, Tensor] | None) -> None:
    """Put each sequence's new state where `carried` will find it."""
    if state is not None and final is not None:
        state[name][batch.slots] = final.to(state[name].dtype)
