"""Nemotron-3's mixture of experts: for each token a router chooses a few of many squared-ReLU MLPs; one more sees every token."""

from dataclasses import replace
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from amaru.axes import Axes, Axis, TensorSpec
from amaru.errors import ConfigError
from amaru.nn.batch import Batch
from amaru.nn.layer import LayerConfig, Mixer, Probe, Reading, fp32, tensor
from amaru.nn.linear import Linear
from amaru.nn.mlp import MLP, activate
from amaru.ops.linear import linear
from amaru.ops.pointwise import sigmoid


class MoE(LayerConfig):
    """`MoE(experts=128, top_k=6, ffn=1856, shared_ffn=3712, scale=2.5)`: the layer of Nemotron-3 Nano.

    experts, top_k       how many there are, and how many of them a token is sent to; none is dropped
    ffn, shared_ffn      inner width of each expert, and of the one that sees every token
    groups, top_groups   experts lie in so many equal groups, and only those of a token's best groups are open to it
    normalised, scale    weights of the chosen experts are divided by their sum, then multiplied by `scale`
    latent               experts read and write a projection of this width; None: the residual stream itself
    """

    kind: Literal["moe"] = "moe"
    experts: int = Field(gt=1)
    top_k: int = Field(gt=0)
    ffn: int = Field(gt=0)
    shared_ffn: int = Field(gt=0)
    groups: int = Field(default=1, gt=0)
    top_groups: int = Field(default=1, gt=0)
    normalised: bool = True
    scale: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    latent: int | None = Field(default=None, gt=0)

    letter: ClassVar[str] = "E"
    sharded: ClassVar[str] = "expert_ffn shared_ffn"  # of every expert a part: no token travels, and no device waits for a favourite one
    probes: ClassVar[dict[str, Probe]] = {"shared_ffn": Probe(Reading("shared_experts.up_proj"))}

    def check(self) -> None:
        if self.experts % self.groups or self.experts < 2 * self.groups:
            raise ConfigError(f"MoE.experts must fill its groups equally, two in each at least; got {self.experts} in {self.groups}.")
        if self.top_groups > self.groups:
            raise ConfigError(f"MoE.top_groups must be at most groups; got {self.top_groups} of {self.groups}.")
        if self.top_k > self.open:
            raise ConfigError(f"MoE.top_k must be at most the {self.open} experts that are open to a token; got {self.top_k}.")

    @property
    def open(self) -> int:
        """Experts among which a token's are chosen."""
        return self.top_groups * (self.experts // self.groups)

    def axes(self) -> Axes:
        group = {"expert_group": Axis(name="expert_group", size=self.groups, least=self.top_groups)} if self.groups > 1 else {}
        latent = {"latent": Axis(name="latent", size=self.latent)} if self.latent else {}
        return {
            **group,
            "expert": Axis(
                name="expert", size=self.experts // self.groups, parents=tuple(group), least=max(2, -(-self.top_k // self.top_groups))
            ),
            "expert_ffn": Axis(name="expert_ffn", size=self.ffn),
            "shared_ffn": Axis(name="shared_ffn", size=self.shared_ffn),
            **latent,
        }

    def tensors(self) -> dict[str, TensorSpec]:
        expert = "expert_group expert" if self.groups > 1 else "expert"
        width = "latent" if self.latent else "hidden"
        latent = {"fc1_latent_proj.weight": tensor("latent", "hidden"), "fc2_latent_proj.weight": tensor("hidden", "latent")}
        return {
            "gate.weight": fp32(expert, "hidden"),
            "gate.e_score_correction_bias": fp32(expert),
            "experts.up_proj": tensor(expert, "expert_ffn", width),
            "experts.down_proj": tensor(expert, width, "expert_ffn"),
            "shared_experts.up_proj.weight": tensor("shared_ffn", "hidden"),
            "shared_experts.down_proj.weight": tensor("hidden", "shared_ffn"),
            **(latent if self.latent else {}),
        }

    def resized(self, sizes: dict[str, int]) -> "MoE":
        groups = sizes.get("expert_group", 1)
        widths = {"ffn": sizes["expert_ffn"], "shared_ffn": sizes["shared_ffn"], "latent": sizes.get("latent")}
        return replace(self, experts=groups * sizes["expert"], groups=groups, **widths)  # type: ignore[type-var]

    def flops(self, hidden: int, context: int) -> int:
        """Of the experts that a token is sent to; the others cost memory only."""
        latent = 4 * hidden * self.latent if self.latent else 0
        experts = 4 * (self.top_k * self.ffn * (self.latent or hidden) + self.shared_ffn * hidden)
        return 2 * hidden * self.experts + latent + experts

    def idle(self, hidden: int, tokens: int = 1) -> int:
        untouched = self.experts * (1 - self.top_k / self.experts) ** tokens
        return round(untouched * 2 * self.ffn * (self.latent or hidden))

    def build(self, hidden: int, norm_eps: float) -> "MoEMixer":
        return MoEMixer(self, hidden)

    def describe(self) -> str:
        groups = f" from {self.top_groups} of {self.groups} groups" if self.groups > 1 else ""
        latent = f", latent {self.latent}" if self.latent else ""
        return f"{self.experts} experts x {self.ffn}, {self.top_k} per token{groups}, shared {self.shared_ffn}{latent}"


class Router(Linear):
    """Which experts a token goes to, and with what weight; in at least fp32, since a rounded score sends tokens elsewhere."""

    def __init__(self, config: MoE, hidden: int) -> None:
        super().__init__(config.experts, hidden)
        self.config = config
        self.e_score_correction_bias = nn.Parameter(torch.zeros(config.experts))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x [T, hidden] -> experts [T, top_k] int64, and their weights [T, top_k].

        The correction decides which experts are chosen and has no part in their weights, so no gradient reaches it: whoever
        balances the experts sets it.
        """
        scores = sigmoid(super().forward(x.to(torch.promote_types(x.dtype, torch.float32))))
        chosen = self._chosen(scores.detach() + self.e_score_correction_bias.detach())
        weights = scores.gather(-1, chosen)
        if self.config.normalised:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        return chosen, weights * self.config.scale

    def _chosen(self, scores: Tensor) -> Tensor:
        """The best experts of the best groups; a group is as good as its two best experts together."""
        if self.config.groups > 1:
            grouped = scores.unflatten(-1, (self.config.groups, -1))
            best = _largest(grouped.topk(2).values.sum(-1), self.config.top_groups)
            closed = torch.ones_like(grouped[..., 0], dtype=torch.bool).scatter(-1, best, False)
            scores = grouped.masked_fill(closed[..., None], -torch.inf).flatten(-2)
        return _largest(scores, self.config.top_k)


def _largest(scores: Tensor, count: int) -> Tensor:
    """Where the largest are, the largest first; of equal ones the first, which `topk` does not promise."""
    return scores.sort(dim=-1, descending=True, stable=True).indices[..., :count]


class Experts(nn.Module):
    """Weights of all experts: up [experts, ffn, width], down [experts, width, ffn]."""

    def __init__(self, experts: int, ffn: int, width: int) -> None:
        super().__init__()
        self.up_proj = nn.Parameter(torch.empty(experts, ffn, width))
        self.down_proj = nn.Parameter(torch.empty(experts, width, ffn))

    def forward(self, x: Tensor, counts: list[int]) -> Tensor:
        """x [N, width], the rows of expert 0 first, `counts` of each -> [N, width]. An expert without rows is not touched."""
        weights = zip(self.up_proj.unbind(), self.down_proj.unbind(), strict=True)
        hit = ((rows, *pair) for rows, pair in zip(x.split(counts), weights, strict=True) if len(rows))
        return torch.cat([linear(activate(linear(rows, up.to(x.dtype)), "relu2"), down.to(x.dtype)) for rows, up, down in hit])


class MoEMixer(Mixer):
    """x [T, hidden] -> [T, hidden]. Names inside are those of transformers."""

    config: MoE

    def __init__(self, config: MoE, hidden: int) -> None:
        super().__init__()
        self.config = config
        self.gate = Router(config, hidden)
        self.experts = Experts(config.experts, config.ffn, config.latent or hidden)
        self.shared_experts = MLP(ffn=config.shared_ffn).build(hidden, 0.0)
        if config.latent:
            self.fc1_latent_proj = Linear(config.latent, hidden)
            self.fc2_latent_proj = Linear(hidden, config.latent)

    def forward(self, x: Tensor, batch: Batch, state: dict[str, Tensor] | None = None) -> Tensor:
        chosen, weights = self.gate(x)
        if self.config.latent:
            routed = self.fc2_latent_proj(self._routed(self.fc1_latent_proj(x), chosen, weights))
        else:
            routed = self._routed(x, chosen, weights)
        return routed + self.shared_experts(x, batch)

    def _routed(self, x: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """[T, width] weighted sum of what the chosen experts make of each token, in the order of their scores.

        Rows are only permuted, there and back, never added up by index: that would depend on the order of threads.
        """
        order = chosen.flatten().argsort(stable=True)
        rows = x[:, None].expand(-1, self.config.top_k, -1).flatten(0, 1)[order]
        counts = chosen.flatten().bincount(minlength=self.config.experts).tolist()
        made = self.experts(rows, counts)[order.argsort()].unflatten(0, chosen.shape)
        return (made * weights[..., None]).sum(1).to(x.dtype)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator, std: float, residual_std: float) -> None:
        self.gate.weight.normal_(0, std, generator=generator)
        self.gate.e_score_correction_bias.fill_(0)
        self.experts.up_proj.normal_(0, std, generator=generator)
        self.experts.down_proj.normal_(0, std if self.config.latent else residual_std, generator=generator)
        self.shared_experts.initialise(generator, std, residual_std)
        if self.config.latent:
            self.fc1_latent_proj.weight.normal_(0, std, generator=generator)
            self.fc2_latent_proj.weight.normal_(0, residual_std, generator=generator)
