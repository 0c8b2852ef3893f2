"""First-order lower bounds of time: bytes that must move and FLOPs that must be done, at the peaks a device's maker publishes."""

from typing import NamedTuple

from amaru.models.cost import BYTES, Flops, Workload, active_parameters, memory, parameters, prompt_flops, step_flops
from amaru.models.decoder import DecoderConfig
from amaru.models.devices import Machine
from amaru.models.tensor_parallel import network_axes


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
    """One sequence of `workload.context` tokens: weights are read once, KV and states are written once."""
    need = memory(config, workload, machine.count)
    moved = _read(config, workload, machine, workload.context) + need.sequences / workload.batch
    return _phase(moved, prompt_flops(config, workload.context), workload, machine)


def decode(config: DecoderConfig, workload: Workload, machine: Machine) -> Phase:
    """One token more for each of `workload.batch` sequences that have `workload.context` tokens: weights and KV are read once,
    states are read and written."""
    need = memory(config, workload, machine.count)
    moved = _read(config, workload, machine, workload.batch) + need.sequences + need.ssm_state + need.conv_state
    step = step_flops(config, workload.context)
    return _phase(moved, Flops(*(flops * workload.batch for flops in step)), workload, machine)


def weights_once(config: DecoderConfig, workload: Workload, machine: Machine) -> float | None:
    """Seconds to read all weights, the embedding whole."""
    bandwidth = machine.device.bandwidth
    return memory(config, workload, machine.count).weights / bandwidth if bandwidth else None


def _read(config: DecoderConfig, workload: Workload, machine: Machine, tokens: int) -> float:
    """Bytes of weights that a device reads for so many tokens: neither an embedding of its own, of which only their rows are
    read, nor experts that none of them is sent to."""
    rows = network_axes(config, machine.count)["vocab"].size
    embedding = 0 if config.tied else BYTES[workload.vocabulary] * rows * config.hidden
    idle = BYTES[workload.weights] * (parameters(config) - active_parameters(config, tokens)) / machine.count
    return memory(config, workload, machine.count).weights - embedding - idle


def _phase(moved: float, flops: Flops, workload: Workload, machine: Machine) -> Phase:
    """`moved` bytes by each device; FLOPs by all of them, evenly shared."""
    device = machine.device
    formats = (workload.weights, workload.wide, workload.vocabulary)
    rates = [device.rate(stored) for stored in formats]
    compute = sum(part / rate for part, rate in zip(flops, rates, strict=True) if rate) / machine.count if all(rates) else None
    return Phase(moved / device.bandwidth if device.bandwidth else None, compute)
