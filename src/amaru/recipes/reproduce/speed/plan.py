"""Output tokens per second of a shape on a device, at published peaks or a share of them: what `amaru plan` knows, over a whole request."""

from dataclasses import replace
from typing import Any, Literal, NamedTuple

from pydantic import Field

from amaru.config import Config
from amaru.errors import CapacityError
from amaru.models.capacity import sequences
from amaru.models.cost import Format, Workload, memory
from amaru.models.decoder import DecoderConfig
from amaru.models.devices import Machine, machine
from amaru.models.roofline import decode, prefill
from amaru.recipes.reproduce.speed.shapes import shape_of

Span = tuple[float, float]


class Serving(Config):
    """`Serving(machine="8xH100-80GB")`: requests of `prompt` tokens in and `new` tokens out, as many together as fit.

    batch      at most so many, halved until they fit; None: as many as fit
    reserve    share of each device's memory for activations and the runtime
    computing  share of the published FLOP/s that a program may reach: the least and the most
    moving     the same of the bandwidth
    """

    machine: str = "H100-80GB"
    prompt: int = Field(default=65536, ge=0)
    new: int = Field(default=1024, gt=0)
    batch: int | None = Field(default=None, gt=0)
    weights: Format = "bf16"
    kv: Format = "bf16"
    state: Literal["fp32", "bf16"] = "fp32"
    reserve: float = Field(default=0.1, ge=0, lt=1)
    computing: Span = (0.3, 1.0)
    moving: Span = (0.6, 1.0)

    def workload(self, context: int, batch: int) -> Workload:
        return Workload(context=context, batch=batch, weights=self.weights, kv=self.kv, state=self.state)

    def describe(self) -> str:
        """`65,536 tokens in, 1,024 out, on one H100-80GB, bf16`"""
        many = "as many together as fit" if self.batch is None else f"at most {self.batch} together"
        said = f"{self.prompt:,} tokens in, {self.new:,} out, {many}, on {self.machine}"
        return f"{said}, weights {self.weights}, KV {self.kv}, SSM states {self.state}"


class Rate(NamedTuple):
    """`tokens_per_second` written by each device, over reading the prompts and writing; seconds of one prompt and of one step."""

    batch: int
    prefill_seconds: float
    step_seconds: float
    tokens_per_second: float


def rate(config: DecoderConfig, serving: Serving, computing: float = 1.0, moving: float = 1.0) -> Rate:
    """`rate(shape_of("nemotron-h-8b"), Serving()).tokens_per_second`; raises `CapacityError` when not one request fits."""
    found = _slowed(machine(serving.machine), computing, moving)
    batch = _batch(config, serving, found)
    read = prefill(config, serving.workload(serving.prompt, batch), found).seconds or 0.0 if serving.prompt else 0.0
    ends = (serving.prompt + 1, serving.prompt + serving.new)
    step = sum(decode(config, serving.workload(context, batch), found).seconds or 0.0 for context in ends) / 2
    written = batch * serving.new / (batch * read + serving.new * step) / found.count
    return Rate(batch, read, step, written)


def _slowed(found: Machine, computing: float, moving: float) -> Machine:
    device = found.device
    flops = {name: computing * each for name, each in device.flops.items()}
    return replace(found, device=replace(device, bandwidth=moving * (device.bandwidth or 0.0), flops=flops))


def _batch(config: DecoderConfig, serving: Serving, found: Machine) -> int:
    usable, context = int((1 - serving.reserve) * found.device.memory), serving.prompt + serving.new
    fitting = sequences(config, serving.workload(context, 1), found.count, usable) or 0
    if fitting < 1:
        need = memory(config, serving.workload(context, 1), found.count).total
        raise CapacityError(f"One sequence of {context:,} tokens needs {need:,} bytes with the weights; {usable:,} are there.")
    batch = serving.batch or fitting
    while batch > fitting:
        batch //= 2
    return batch


class Pair(Config):
    """`Pair(ours="nemotron-h-8b", theirs="llama-3.1-8b", paper=3.0)`: how many times as fast ours is said to be."""

    ours: str
    theirs: str
    paper: float = Field(gt=0)
    serving: Serving = Serving()

    @property
    def name(self) -> str:
        return f"{self.ours}-{self.theirs}"


def beside(pair: Pair) -> dict[str, Any]:
    """The record of a pair: tokens per second of both at the peaks, their ratio there, and the least and the most ratio below them."""
    ours, theirs = shape_of(pair.ours), shape_of(pair.theirs)
    corners = [(computing, moving) for computing in pair.serving.computing for moving in pair.serving.moving]
    ratios = [ratio(ours, theirs, pair.serving, *corner) for corner in corners]
    peaks = [rate(config, pair.serving) for config in (ours, theirs)]
    return {
        "ours": pair.ours,
        "theirs": pair.theirs,
        "paper": pair.paper,
        "serving": pair.serving.describe(),
        "at_peak": peaks[0].tokens_per_second / peaks[1].tokens_per_second,
        "range": [min(ratios), max(ratios)],
        "rates": [each._asdict() for each in peaks],
    }


def ratio(ours: DecoderConfig, theirs: DecoderConfig, serving: Serving, computing: float, moving: float) -> float:
    one, other = (rate(config, serving, computing, moving).tokens_per_second for config in (ours, theirs))
    return one / other
