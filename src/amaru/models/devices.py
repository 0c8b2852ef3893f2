"""Devices by name: bytes, bandwidth and FLOP/s as their makers publish them, for `amaru plan`."""

import difflib
import re

import psutil
from pydantic import Field

from amaru.config import Config
from amaru.config.units import parse_bytes
from amaru.errors import ConfigError


class Device(Config):
    """`DEVICES["h100-80gb"]`: one accelerator.

    memory      bytes, as nvidia-smi reports the total
    bandwidth   bytes per second of its memory; None: not known
    flops       FLOP/s by number format; dense, without sparsity; empty: not known
    source      where the figures are from
    """

    name: str
    memory: int = Field(gt=0)
    bandwidth: float | None = Field(default=None, gt=0)
    flops: dict[str, float] = Field(default_factory=dict)
    source: str = ""

    def rate(self, stored: str) -> float | None:
        """FLOP/s of a matrix product whose weights are stored so; None when not known.

        A format that the device does not calculate in is widened to 16 bits first; int4 always is.
        """
        return self.flops.get(stored) or self.flops.get("bf16") or self.flops.get("fp16")


class Machine(Config):
    """`machine("8xH100-80GB")`: so many of one device."""

    count: int = Field(gt=0)
    device: Device

    @property
    def name(self) -> str:
        return self.device.name if self.count == 1 else f"{self.count}x{self.device.name}"


def machine(text: str) -> Machine:
    """`machine("h100")`, `machine("8xA100-40GB")`, `machine("2x24GiB")`, `machine("cpu")`: names in any case, sizes, this machine.

    Of a size and of "cpu" only the memory is known. Raises `ConfigError` for anything else.
    """
    match = re.fullmatch(r"(\d{1,6})\s*[xX\N{MULTIPLICATION SIGN}]\s*(.+)", text.strip())
    count, name = (int(match[1]), match[2]) if match else (1, text.strip())
    if count < 1 or (match and name.lower() == "cpu"):
        raise ConfigError(f"'{text}' is no device: {'this machine has one memory' if count else 'one is the least'}.")
    return Machine(count=count, device=_device(name))


def _device(text: str) -> Device:
    name = ALIASES.get(text.lower(), text.lower())
    if name in DEVICES:
        return DEVICES[name]
    if name == "cpu":
        return Device(name="cpu", memory=psutil.virtual_memory().total)
    if name[:1].isdigit():
        return Device(name=text, memory=parse_bytes(text))
    near = difflib.get_close_matches(name, ["cpu", *DEVICES, *ALIASES], n=1)
    hint = f"Did you mean '{near[0]}'?" if near else f"There are: cpu, {', '.join(device.name for device in TABLE)}."
    raise ConfigError(f"There is no device '{text}'. {hint} A size such as 24GiB is allowed too, and a count such as 8x in front.")


def _published(name: str, mebibytes: int, gigabytes_per_second: float, source: str, **teraflops: float) -> Device:
    return Device(
        name=name,
        memory=mebibytes * 2**20,
        bandwidth=gigabytes_per_second * 1e9,
        flops={number: rate * 1e12 for number, rate in teraflops.items()},
        source=source,
    )


HOPPER = {"fp32": 67, "bf16": 989.4, "fp16": 989.4, "fp8": 1978.9, "int8": 1978.9}
AMPERE = {"fp32": 19.5, "bf16": 312, "fp16": 312, "int8": 624}

# Tensor cores, dense, sums in fp32 (int32 for int8), at boost clocks; fp32 on the ordinary cores, not TF32. Datasheets that
# print figures with sparsity are halved.
TABLE = (
    _published("T4", 15360, 320, "NVIDIA T4 product brief", fp32=8.1, fp16=65, int8=130),
    _published("L4", 23034, 300, "NVIDIA L4 datasheet", fp32=30.3, bf16=121, fp16=121, fp8=242.5, int8=242.5),
    _published("L40S", 46068, 864, "NVIDIA L40S datasheet", fp32=91.6, bf16=362, fp16=362, fp8=733, int8=733),
    _published("RTX-4090", 24564, 1008, "NVIDIA Ada architecture whitepaper", fp32=82.6, bf16=165.2, fp16=165.2, fp8=330.3, int8=660.6),
    _published(
        "RTX-5090", 32607, 1792, "NVIDIA RTX Blackwell whitepaper", fp32=104.8, bf16=209.5, fp16=209.5, fp8=419, int8=838, nvfp4=1676
    ),
    _published("A100-40GB", 40960, 1555, "NVIDIA A100 datasheet, SXM", **AMPERE),
    _published("A100-80GB", 81920, 2039, "NVIDIA A100 datasheet, SXM", **AMPERE),
    _published("H100-80GB", 81559, 3350, "NVIDIA H100 datasheet, SXM", **HOPPER),
    _published("H100-PCIe", 81559, 2000, "NVIDIA H100 datasheet, PCIe", fp32=51, bf16=756, fp16=756, fp8=1513, int8=1513),
    _published("H200", 143771, 4800, "NVIDIA H200 datasheet, SXM", **HOPPER),
    _published("B200", 183359, 8000, "NVIDIA DGX B200 datasheet", fp32=77.5, bf16=2250, fp16=2250, fp8=4500, int8=4500, nvfp4=9000),
)
DEVICES = {device.name.lower(): device for device in TABLE}
ALIASES = {
    "t4-16gb": "t4",
    "l4-24gb": "l4",
    "l40s-48gb": "l40s",
    "h100": "h100-80gb",
    "h100-sxm": "h100-80gb",
    "h200-141gb": "h200",
    "b200-180gb": "b200",
}
