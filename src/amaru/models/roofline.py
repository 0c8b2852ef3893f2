"""First-order lower bounds of time: bytes that must move and FLOPs that must be done, at the peaks a device's maker publishes."""

from typing import NamedTuple

from amaru.models.cost import BYTES, Flops, Memory, Workload, memory, prompt_flops, step_flops
from amaru.models.decoder import DecoderConfig
from amaru.models.devices import Machine


class Phase(NamedTuple):
    """What one phase takes at least, in seconds: moving its bytes, doing its FLOPs; None where the device's figure is not known.

    Both may overlap wholly, so the longer is the bound. Communication between devices, launches of kernels and all that keeps
    real programs from the peaks come on top.
    """

    memory: float | None
    compute: float | None

    @property
    def seconds(self) -> float | None:
        return max((bound for bound in self if bound is not None), default=None)

    @property
    def binds(self) -> str | None:
        """The side that the bound is from."""
        return None if self.seconds is None else "memory" if self.seconds == self.memory else "compute"


def prefill(config: DecoderConfig, workload: Workload, machine: Machine) -> Phase:
    """One sequence of `workload.context` tokens: every weight is read once, KV and states are written once."""
    need = memory(config, workload, machine.count)
    moved = _read(config, workload, machine, need) + need.sequences / workload.batch
    return _phase(moved, prompt_flops(config, workload.context), workload, machine)


def decode(config: DecoderConfig, workload: Workload, machine: Machine) -> Phase:
    """One token more for each of `workload.batch` sequences that have `workload.context` tokens: every weight and all of KV is
    read once, states are read and written."""
    need = memory(config, workload, machine.count)
    moved = _read(config, workload, machine, need) + need.sequences + need.ssm_state + need.conv_state
    step = step_flops(config, workload.context)
    return _phase(moved, Flops(*(flops * workload.batch for flops in step)), workload, machine)


def weights_once(config: DecoderConfig, workload: Workload, machine: Machine) -> float | None:
    """Seconds to read all weights, the embedding whole."""
    bandwidth = machine.device.bandwidth
    return memory(config, workload, machine.count).weights / bandwidth if bandwidth else None


def _read(config: DecoderConfig, workload: Workload, machine: Machine, need: Memory) -> float:
    """Bytes of weights that a device reads: all but an embedding of its own, of which only the rows of the tokens are."""
    rows = -(-config.vocab // machine.count)
    return need.weights - (0 if config.tied else BYTES[workload.vocabulary] * rows * config.hidden)


def _phase(moved: float, flops: Flops, workload: Workload, machine: Machine) -> Phase:
    """`moved` bytes by each device; FLOPs by all of them, evenly shared."""
    device = machine.device
    formats = (workload.weights, workload.wide, workload.vocabulary)
    rates = [device.rate(stored) for stored in formats]
    compute = sum(part / rate for part, rate in zip(flops, rates, strict=True) if rate) / machine.count if all(rates) else None
    return Phase(moved / device.bandwidth if device.bandwidth else None, compute)
