"""Where activations are read, and what is added up of them."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from amaru.axes import Expression
from amaru.errors import ConfigError
from amaru.models.decoder import Decoder
from amaru.nn.layer import LayerConfig, Reading


class Total(ABC):
    """What is known of a site after some samples; `last` is of the latest alone."""

    last: Tensor

    @abstractmethod
    def add(self, values: Tensor) -> None:
        """One sample [tokens, rows], in at least fp32."""

    @abstractmethod
    def score(self) -> Tensor:
        """[rows]"""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Everything that has been added up, in place."""

    def mean(self) -> Tensor | None:
        """[rows] of the activations, where it is known."""
        return None


class MeanAbsolute(Total):
    """The L2 norm over samples of the mean of |activation| over a sample's tokens (Minitron)."""

    def __init__(self, rows: int, device: torch.device) -> None:
        self.squares = torch.zeros(rows, dtype=torch.float64, device=device)

    def add(self, values: Tensor) -> None:
        self.last = values.abs().mean(0)
        self.squares += self.last.double().square()

    def score(self) -> Tensor:
        return self.squares.sqrt()

    def tensors(self) -> dict[str, Tensor]:
        return {"squares": self.squares}


class Fluctuation(Total):
    """Standard deviation over all tokens of what a projection reads, times the norm of the column that reads it (FLAP).

    Its square is the variance times the squared norm, so squares add up over the channels of a head as other scores' do. Means and
    deviations of samples are joined as Chan, Golub and LeVeque do, without a difference of large sums.
    """

    def __init__(self, rows: int, device: torch.device, reader: nn.Module) -> None:
        self.reader = reader
        zeros = torch.zeros(rows, dtype=torch.float64, device=device)
        self.count, self.means, self.deviations, self.columns = zeros[:1].clone(), zeros.clone(), zeros.clone(), zeros.clone()

    def add(self, values: Tensor) -> None:
        variance, self.last = (each.double() for each in torch.var_mean(values, dim=0, correction=0))
        weight: Tensor = self.reader.weight  # type: ignore[assignment]
        self.columns.copy_(torch.linalg.vector_norm(weight, dim=0, dtype=torch.promote_types(weight.dtype, torch.float32)))
        together, change = self.count + len(values), self.last - self.means
        self.deviations += variance * len(values) + change.square() * self.count * len(values) / together
        self.means += change * len(values) / together
        self.count.copy_(together)

    def score(self) -> Tensor:
        return (self.deviations / self.count).sqrt() * self.columns

    def tensors(self) -> dict[str, Tensor]:
        return {"count": self.count, "means": self.means, "deviations": self.deviations, "columns": self.columns}

    def mean(self) -> Tensor:
        return self.means


@dataclass(frozen=True, eq=False)
class Site:
    """The output (or input) of a module, and the rows of it that are meant."""

    layer: int
    expression: str
    shape: tuple[int, ...]
    module: nn.Module
    rows: slice
    total: Total
    at_input: bool = False

    @contextmanager
    def watched(self, values: dict[int, Tensor], number: int) -> Iterator[None]:
        """Inside, what passes here is put into `values` under this number."""

        def read(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            values[number] = (inputs[0] if self.at_input else output)[..., self.rows]

        handle = self.module.register_forward_hook(read)
        try:
            yield
        finally:
            handle.remove()


def sites_of(decoder: Decoder, ffn_after_activation: bool, fluctuation: Collection[str]) -> list[list[Site]]:
    """Layer by layer, and last the norm before the head.

    Raises `ConfigError` for kinds in `fluctuation` that the model does not have, or that are not scored.
    """
    scored = dict.fromkeys(layer.kind for layer in decoder.config.layers if layer.probes)
    if unknown := sorted(set(fluctuation) - scored.keys()):
        raise ConfigError(f"Fluctuation is measured in layers of the kinds {', '.join(scored)}; got '{unknown[0]}'.")
    device = decoder.norm.weight.device

    def stream(index: int, norm: nn.Module) -> Site:
        hidden = decoder.config.hidden
        return Site(index, "hidden", (hidden,), norm, slice(None), MeanAbsolute(hidden, device))

    found = []
    for index, config in enumerate(decoder.config.layers):
        layer = decoder.get_submodule(f"layers.{index}")
        widths = _widths(index, config, layer.get_submodule("mixer"), ffn_after_activation, config.kind in fluctuation, device)
        found.append([stream(index, layer.get_submodule("norm")), *widths])
    return [*found, [stream(len(found), decoder.norm)]]


def _widths(
    index: int, config: LayerConfig, mixer: nn.Module, ffn_after_activation: bool, fluctuation: bool, device: torch.device
) -> Iterator[Site]:
    readings = {reading: axis for axis, probe in config.probes.items() for reading in probe.readings}
    for reading, axis in readings.items():
        rows, expression = config.read(reading)
        consumer = _consumer(config, expression)
        spread = fluctuation and consumer is not None
        if consumer is not None and (spread or (axis == "ffn" and ffn_after_activation)):
            reading, rows = Reading(consumer, at_input=True), slice(None)
        shape = tuple(config.axes()[name].size for name in str(expression).split(" x "))
        module, count = mixer.get_submodule(reading.module), torch.Size(shape).numel()
        total = Fluctuation(count, device, module) if spread else MeanAbsolute(count, device)
        yield Site(index, str(expression), shape, module, rows, total, reading.at_input)


def _consumer(config: LayerConfig, expression: Expression) -> str | None:
    """The projection back to the stream whose columns are what `expression` says."""
    for name, spec in config.tensors().items():
        if len(spec.layout.dimensions) == 2 and spec.layout.dimensions[1] == expression and str(spec.layout.dimensions[0]) == "hidden":
            return name.removesuffix(".weight")
    return None
