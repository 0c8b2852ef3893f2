"""What every layer config tells about itself, so that counting, cutting and drawing need no second copy of it."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import nn

from amaru.axes import Axes, Expression, Layout, TensorSpec, part
from amaru.config import Config
from amaru.nn.rope import Rope


class Reading(NamedTuple):
    """Activations that are looked at: what a module of the mixer gives (or takes), all of it or one named part of its rows."""

    module: str
    part: str | None = None
    at_input: bool = False


@dataclass(frozen=True)
class Probe:
    """Where the importance of an axis is read, and inside which other axes its indices compete.

        Probe(Reading("in_proj", "x"), per=("group",))                    # heads are ranked within their group
        Probe(Reading("in_proj", "B"), Reading("in_proj", "C"), ...)      # several are multiplied

    A state channel counts as far as B writes to it and C reads it: with one decay for all channels of a head the product of
    both root mean squares is its Hankel singular value, by which balanced truncation would choose.
    """

    readings: tuple[Reading, ...]
    per: tuple[str, ...]

    def __init__(self, *readings: Reading, per: tuple[str, ...] = ()) -> None:
        object.__setattr__(self, "readings", readings)
        object.__setattr__(self, "per", per)


class LayerConfig(Config):
    """Base of `Mamba2`, `Attention`, `MLP`: widths of one layer, and what its tensors are made of.

    kind      the name in config files; letter: the symbol in a pattern string
    sharded   the axis (or axes) that tensor parallelism divides among devices; tensors without it are on all of them
    probes    for each axis that compression may narrow, where its importance is read
    """

    letter: ClassVar[str]
    sharded: ClassVar[str]
    probes: ClassVar[dict[str, Probe]] = {}

    @abstractmethod
    def axes(self) -> Axes:
        """The axes of this layer; `hidden` belongs to the network."""

    @abstractmethod
    def tensors(self) -> dict[str, TensorSpec]:
        """Every parameter of the mixer by name, with its layout."""

    def read(self, reading: Reading) -> tuple[slice, Expression]:
        """Which rows of a module's output (or input) a reading means, and what they are made of."""
        dimensions = self.tensors()[f"{reading.module}.weight"].layout.dimensions
        rows = dimensions[-1] if reading.at_input else dimensions[0]
        return part(rows, reading.part, self.axes()) if reading.part else (slice(None), rows)

    def state_tensors(self) -> dict[str, TensorSpec]:
        """State of one sequence that does not grow with its length."""
        return {}

    def cache_tensors(self) -> dict[str, TensorSpec]:
        """State of one token of one sequence (KV)."""
        return {}

    @property
    def sight(self) -> str:
        """Layers of one sight keep keys and values of the same places: "all", or "window" where old places are given away."""
        return "all"

    @property
    def turned(self) -> tuple[Rope, int] | None:
        """The rotary embedding of its queries and keys, and how many channels these have."""
        return None

    @property
    def needs(self) -> tuple["LayerConfig", ...]:
        """What must stand before it for it to run: a layer whose keys and values it reads; most need none."""
        return ()

    def cached(self, context: int) -> int:
        """How many tokens' cache a sequence of `context` tokens keeps: all of them, unless the layer sees a window."""
        return context

    def visible(self, context: int) -> int:
        """How many tokens the last of `context` tokens attends to: a limit, where there is a window, and all below it."""
        return context

    @abstractmethod
    def resized(self, sizes: dict[str, int]) -> "LayerConfig":
        """This layer with other axis sizes: what a cut leaves."""

    @abstractmethod
    def flops(self, hidden: int, context: int) -> int:
        """Multiply-adds counted twice, forward, for one token that sees `context` tokens."""

    def idle(self, hidden: int, tokens: int = 1) -> int:
        """Parameters that `tokens` tokens leave alone: experts that none of them is sent to, if all are sent to equally often."""
        return 0

    @abstractmethod
    def build(self, hidden: int, norm_eps: float) -> "Mixer":
        """The module, with uninitialised weights."""

    @abstractmethod
    def describe(self) -> str:
        """The widths in a few words, for `amaru show`."""


def elements(tensors: dict[str, TensorSpec], axes: Axes) -> int:
    return sum(spec.layout.numel(axes) for spec in tensors.values())


def fp32(*dimensions: str) -> TensorSpec:
    return TensorSpec(Layout.of(*dimensions), keep_fp32=True)


def tensor(*dimensions: str) -> TensorSpec:
    return TensorSpec(Layout.of(*dimensions))


class Mixer(nn.Module):
    """A layer's module: `forward(x [T, hidden], batch, state) -> [T, hidden]`; state is updated in place."""

    config: LayerConfig

    def new_state(
        self, slots: int, pages: int, page: int, dtype: torch.dtype, device: torch.device, narrow: torch.dtype | None = None
    ) -> dict[str, torch.Tensor]:
        """Zeroed state for `slots` sequences, and `pages` pages of `page` places for their caches; empty for a layer without state.

        With `narrow` caches are of that dtype, and have a scale for each head of a place.
        """
        axes, state, cache = self.config.axes(), self.config.state_tensors(), self.config.cache_tensors()

        def zeros(spec: TensorSpec, *leading: int) -> torch.Tensor:
            kept = torch.promote_types(dtype, torch.float32) if spec.keep_fp32 else dtype
            return torch.zeros(*leading, *spec.layout.shape(axes), dtype=kept, device=device)

        fixed = {name: zeros(spec, slots) for name, spec in state.items()}
        caches = {name: zeros(spec, pages, page) for name, spec in cache.items()}
        if narrow is None:
            return fixed | caches
        scales = {f"{name}_scales": held.new_ones(held.shape[:-1], dtype=torch.bfloat16) for name, held in caches.items()}
        return fixed | {name: held.to(narrow) for name, held in caches.items()} | scales

    @abstractmethod
    def initialise(self, generator: torch.Generator, std: float, residual_std: float) -> None:
        """Draw the weights anew: N(0, std), and residual_std for the matrix that writes to the residual stream."""
