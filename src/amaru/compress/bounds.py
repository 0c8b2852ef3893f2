"""Times of a named device at its published peaks, in place of measured ones: lower bounds, and said to be so."""

from dataclasses import dataclass, replace

from amaru.errors import ConfigError
from amaru.models import roofline
from amaru.models.cost import Workload
from amaru.models.decoder import DecoderConfig
from amaru.models.devices import Machine
from amaru.models.roofline import Phase


@dataclass(frozen=True)
class Bounds:
    """`Bounds(machine("h100"), workload, prompt=1024).decode(config, 8)`: seconds to move the bytes, seconds to do the FLOPs.

    Both add up over layers, and the longer of both sums is the bound. Raises `ConfigError` for a device whose figures are not known.
    """

    machine: Machine
    workload: Workload
    prompt: int

    def __post_init__(self) -> None:
        device = self.machine.device
        if device.bandwidth is None or not device.flops:
            raise ConfigError(f"The bandwidth and FLOP/s of {device.name} are not known; name another device, or measure.")

    def prefill(self, config: DecoderConfig) -> tuple[float, ...]:
        return _clocks(roofline.prefill(config, replace(self.workload, context=self.prompt, batch=1), self.machine))

    def decode(self, config: DecoderConfig, batch: int) -> tuple[float, ...]:
        return _clocks(roofline.decode(config, replace(self.workload, batch=batch), self.machine))

    def describe(self) -> str:
        return f"not measured: lower bounds at the published peaks of {self.machine.name} ({self.machine.device.source})"


def _clocks(phase: Phase) -> tuple[float, ...]:
    assert phase.memory is not None and phase.compute is not None
    return phase.memory, phase.compute
