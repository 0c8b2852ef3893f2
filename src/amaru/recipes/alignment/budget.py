"""What the stages of Nemotron-4 340B's alignment take for a model on some devices: tokens, FLOPs, time at the published MFU, memory."""

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from pydantic import Field

from amaru.config import Config
from amaru.errors import ConfigError
from amaru.models import capacity, cost, roofline
from amaru.models.cost import Workload
from amaru.models.decoder import DecoderConfig
from amaru.models.devices import Machine
from amaru.models.training_memory import Footing, training_memory

MFU = 0.41  # of Nemotron-4 340B's pre-training on 6,144 H100 (42.4 % on 1,536): the report has no figure for alignment
TENSOR = (1, 2, 4, 8, 16)

Layout = dict[str, Any] | None  # None where none fits


class Planned(NamedTuple):
    """A stage: what it learns from, how often, and so many at a step."""

    name: str
    kind: Literal["answers", "pairs", "rated"]
    samples: int
    epochs: float
    batch: int


REPORT = (  # 2406.11704: general SFT has 2 % of the code samples again; of RPO neither epochs nor batch are told, these are DPO's
    Planned("reward model", "rated", 20_000, 2, 128),
    Planned("code SFT", "answers", 800_000, 1, 128),
    Planned("general SFT", "answers", 216_000, 3, 128),
    Planned("DPO", "pairs", 160_000, 1, 256),
    Planned("RPO 1", "pairs", 300_000, 1, 256),
    Planned("RPO 2", "pairs", 300_000, 1, 256),
    Planned("RPO 3", "pairs", 300_000, 1, 256),
)


class Assumed(Config):
    """`Assumed(length=1024)`: what the report leaves open.

    length      tokens of a prompt with its answer, on average; half of them are taken to be the answer
    row_length  tokens of a row: what a process has at once, and the longest sequence
    answers     drawn for each pair
    mfu         share of the devices' published peak that training reaches
    """

    length: int = Field(default=1024, gt=1)
    row_length: int = Field(default=4096, gt=1)
    answers: int = Field(default=4, ge=2)
    mfu: float = Field(default=MFU, gt=0, le=1)


def budget(config: DecoderConfig, machine: Machine, usable: int, assumed: Assumed) -> dict[str, Any]:
    """Layouts of `machine` with what each of its devices holds, and stages with their time; `training` and `serving` are the first
    layouts whose devices hold it.

    `usable` are bytes of a device. Raises `ConfigError` where the device's FLOP/s are not known.
    """
    rate = machine.device.rate("bf16")
    if rate is None:
        raise ConfigError(f"The FLOP/s of {machine.name} are not known; name a device such as 384xH100-80GB.")
    layouts = list(_layouts(config, machine, usable, assumed))
    training, serving = (next((each for each in layouts if each[what]), None) for what in ("trains", "serves"))
    flops = machine.count * rate * assumed.mfu
    stages = [_stage(each, config, machine, flops, assumed, training, serving) for each in REPORT]
    return {
        "parameters": cost.parameters(config),
        "assumed": vars(assumed),
        "layouts": layouts,
        "training": training,
        "serving": serving,
        "stages": stages,
        "seconds": sum(each["training_seconds"] + (each["sampling_seconds"] or 0) for each in stages),
    }


def _layouts(config: DecoderConfig, machine: Machine, usable: int, assumed: Assumed) -> Iterator[dict[str, Any]]:
    """One for each number of devices that may share a layer; the others share every batch, and with it all that training holds."""
    for tensor in TENSOR:
        if machine.count % tensor:
            continue
        data = machine.count // tensor
        footing = Footing(tokens=assumed.row_length, recompute=True, data=data, tensor=tensor, sequence=tensor > 1)
        workload = Workload(context=assumed.row_length)
        try:
            training, serving = training_memory(config, footing).total, cost.memory(config, workload, tensor)
        except ConfigError:  # so many do not divide a layer
            continue
        reference = 2 * cost.parameters(config) // machine.count
        sequences = capacity.sequences(config, workload, tensor, usable)
        yield {
            "tensor": tensor,
            "data": data,
            "training": training,
            "reference": reference,
            "serving": serving.total,
            "sequences": sequences,
            "trains": training + reference <= usable,
            "serves": serving.total <= usable,
        }


def _stage(
    stage: Planned, config: DecoderConfig, machine: Machine, flops: float, assumed: Assumed, training: Layout, serving: Layout
) -> dict[str, Any]:
    """A pair is two sequences, which the reference reads as well; a token is learned from with three forward passes' worth of FLOPs."""
    paired = stage.kind == "pairs"
    tokens = round(stage.samples * stage.epochs) * assumed.length * (2 if paired else 1)
    forward = cost.forward_flops(config, assumed.length)
    drawn = stage.samples * assumed.answers if paired else 0
    scoring = drawn * assumed.length * forward
    total = tokens * (3 + paired) * forward + scoring
    return {
        "name": stage.name,
        "samples": stage.samples,
        "epochs": stage.epochs,
        "steps": -(-round(stage.samples * stage.epochs) // stage.batch),
        "tokens": tokens,
        "flops": total,
        "training_seconds": total / flops,
        "memory": _held(stage, training),
        "answers": drawn,
        "sampling_seconds": _sampling(drawn, config, machine, assumed, serving) if drawn else None,
    }


def _held(stage: Planned, layout: Layout) -> int | None:
    """Bytes of a device while the stage trains, in the first layout that fits; preferences have the reference beside the model."""
    return None if layout is None else layout["training"] + (layout["reference"] if stage.kind == "pairs" else 0)


def _sampling(drawn: int, config: DecoderConfig, machine: Machine, assumed: Assumed, layout: Layout) -> float | None:
    """At least so long: every group of devices decodes as many answers at once as fit, at its published peaks."""
    if layout is None or not layout["sequences"]:
        return None
    batch = min(layout["sequences"], -(-drawn // layout["data"]))
    group = Machine(count=layout["tensor"], device=machine.device)
    bound = roofline.decode(config, Workload(context=assumed.length, batch=batch), group).seconds
    return None if bound is None else bound * drawn * (assumed.length / 2) / batch / layout["data"]
