"""What LoRA and Tied-LoRA have in common: settings, the blocks they make of a model's linear layers, and the module that is trained."""

import math
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from amaru.adapters.low_rank import Block, Factors, LowRank
from amaru.adapters.targets import Site, chosen
from amaru.config import Config
from amaru.errors import ConfigError
from amaru.models.decoder import DecoderConfig

FUSED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))  # they read the same x, and are one product elsewhere
Factor = Literal["A", "B", "u", "v"]


class Method(Config):
    """Base of `LoRA` and `TiedLoRA`.

    rank, alpha   the change is scaled by alpha / rank; alpha None: by one
    targets       what `targets.chosen` takes: all, mamba, attention.q_proj, in_proj.x, head
    layers        only these; None: every layer
    fuse          q, k and v of a layer (and gate and up) are one block, with one A
    init, std     how factors are drawn: kaiming, uniform in +-1/sqrt(columns); normal, N(0, std); xavier, N(0, 2 / (rows + columns))
    dropout       of what A reads, while training
    seed          of the draw
    """

    rank: int = Field(default=8, gt=0)
    alpha: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    targets: tuple[str, ...] = ("all",)
    layers: tuple[int, ...] | None = None
    fuse: bool = False
    init: Literal["kaiming", "normal", "xavier"] = "kaiming"
    std: float = Field(default=0.02, gt=0, allow_inf_nan=False)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    seed: int = 0

    @property
    @abstractmethod
    def called(self) -> str:
        """The name in tables."""

    @property
    @abstractmethod
    def tying(self) -> tuple[str, ...]:
        """The factors that equal blocks share."""

    @property
    @abstractmethod
    def training(self) -> tuple[str, ...]:
        """The factors that are trained."""

    @property
    @abstractmethod
    def zero(self) -> str:
        """The factor that is zero at the start, so that the model begins as it was."""

    @property
    def factors(self) -> tuple[str, ...]:
        """Those that there are: a u or v that is not trained is one, and is not stored."""
        return ("A", "B", *(name for name in ("u", "v", "magnitude") if name in self.training))

    def scale(self, rank: int) -> float:
        return 1.0 if self.alpha is None else self.alpha / rank

    def rank_of(self, site: Site) -> int:
        return self.rank

    def blocks(self, config: DecoderConfig) -> list[Block]:
        """What is adapted, in the model's order; raises `ConfigError` for a rank above a dimension."""
        return self.bundled(chosen(config, self.targets, self.layers))

    def bundled(self, reached: Iterable[Site]) -> list[Block]:
        """Blocks of these sites; raises `ConfigError` for a rank above a dimension."""
        bundles: dict[tuple, list[Site]] = {}
        for site in reached:
            owner, _, last = site.path.rpartition(".")
            bundle = next((each for each in FUSED if last in each), None) if self.fuse and site.segment is None else None
            bundles.setdefault((owner, bundle or site.name), []).append(site)
        return [self._block(tuple(found)) for found in bundles.values()]

    def _block(self, found: tuple[Site, ...]) -> Block:
        ranks = {self.rank_of(site) for site in found}
        if len(ranks) > 1:
            raise ConfigError(f"{' and '.join(site.name for site in found)} share A, so they have one rank; got {sorted(ranks)}.")
        block = Block(found, ranks.pop())
        if block.rank > min(block.rows, block.cols):
            raise ConfigError(f"Rank {block.rank} is above a dimension of {block.name}, {block.rows} x {block.cols}; give a lower one.")
        return block

    def trained_count(self, config: DecoderConfig) -> int:
        """How many numbers are trained, without making them."""
        with torch.device("meta"):
            return Adapter(self, self.blocks(config)).trained_count


class Adapter(nn.Module):
    """`Adapter(method, method.blocks(config))`: the factors of all, drawn; each is registered once, a shared one under `groups`.

    Names inside have slashes for the dots of the model's. Nothing of a decoder is held: `attach` lets its layers read from here.
    """

    def __init__(self, method: Method, blocks: Sequence[Block], dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.method = method
        self.blocks = {block.name: block for block in blocks}
        self.groups, self.own = nn.ModuleDict(), nn.ModuleDict()
        for name, block in self.blocks.items():
            key = block.role.replace(".", "/")
            if method.tying and key not in self.groups:
                self.groups[key] = Factors(block, method.tying, dtype)
            own = tuple(factor for factor in method.factors if factor not in method.tying)
            group: Factors | None = self.groups[key] if method.tying else None  # type: ignore[assignment]
            self.own[name.replace(".", "/")] = LowRank(block, own, dtype, group, method.scale(block.rank), method.dropout)
        self.train_factors(True)
        self._draw()

    @property
    def trained_count(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)

    def train_factors(self, on: bool) -> None:
        """Let those learn that the method trains, or none."""
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(on and name.rpartition(".")[2] in self.method.training)

    def change(self, name: str) -> LowRank:
        """What the block of this name adds."""
        return self.own[name.replace(".", "/")]  # type: ignore[return-value]

    @torch.no_grad()
    def _draw(self) -> None:
        generator = torch.Generator("cpu").manual_seed(self.method.seed)
        for name, parameter in self.named_parameters():
            factor = name.rpartition(".")[2]
            if factor == self.method.zero:
                parameter.zero_()
            elif factor in ("u", "v", "magnitude"):
                parameter.fill_(1)
            elif not parameter.is_meta:
                parameter.copy_(self._drawn(parameter, generator))

    def _drawn(self, like: Tensor, generator: torch.Generator) -> Tensor:
        rows, cols = like.shape
        drawn, bound = torch.empty(rows, cols, dtype=like.dtype, device="cpu"), 1 / math.sqrt(cols)
        if self.method.init == "kaiming":
            return drawn.uniform_(-bound, bound, generator=generator)
        return drawn.normal_(0, self.method.std if self.method.init == "normal" else math.sqrt(2 / (rows + cols)), generator=generator)
