"""LoRA (arXiv 2106.09685) of any linear layer: W' = W + (alpha / r) B A, with the step of rsLoRA and the magnitudes of DoRA."""

import math
from typing import Literal

from pydantic import Field

from amaru.adapters.low_rank import Block
from amaru.adapters.method import Method
from amaru.adapters.targets import Site, matches
from amaru.errors import ConfigError
from amaru.models.decoder import DecoderConfig


class LoRA(Method):
    """`LoRA(rank=16, alpha=32, targets=("mamba", "attention"), ranks={"in_proj.x": 4})`

    ranks     other ranks by target; of several that mean a projection the last counts
    rslora    scaled by alpha / sqrt(rank), which keeps the change as large at a high rank (arXiv 2312.03732)
    dora      rows keep a norm of their own, which is trained (arXiv 2402.09353)
    """

    method: Literal["lora"] = "lora"
    alpha: float | None = Field(default=16.0, gt=0, allow_inf_nan=False)
    ranks: dict[str, int] = Field(default_factory=dict)
    rslora: bool = False
    dora: bool = False

    def check(self) -> None:
        if wrong := [f"{target}={rank}" for target, rank in self.ranks.items() if rank < 1]:
            raise ConfigError(f"LoRA.ranks are 1 or more; got {', '.join(wrong)}.")

    @property
    def called(self) -> str:
        return "DoRA" if self.dora else "LoRA"

    @property
    def tying(self) -> tuple[str, ...]:
        return ()

    @property
    def training(self) -> tuple[str, ...]:
        return ("A", "B", "magnitude") if self.dora else ("A", "B")

    @property
    def zero(self) -> str:
        return "B"

    def scale(self, rank: int) -> float:
        return super().scale(rank) * (math.sqrt(rank) if self.rslora and self.alpha is not None else 1.0)

    def rank_of(self, site: Site) -> int:
        return next((rank for target, rank in reversed(self.ranks.items()) if matches(target, site)), self.rank)

    def blocks(self, config: DecoderConfig) -> list[Block]:
        found = super().blocks(config)
        reached = [site for block in found for site in block.sites]
        if idle := [target for target in self.ranks if not any(matches(target, site) for site in reached)]:
            names = ", ".join(dict.fromkeys(site.role for site in reached))
            raise ConfigError(f"LoRA.ranks says '{idle[0]}', which is none of what is reached: {names}.")
        return found
