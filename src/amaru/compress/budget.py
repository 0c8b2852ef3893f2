"""What the student may cost: parameters, bytes of memory under a workload, or both."""

import re

from pydantic import Field

from amaru.config import Config
from amaru.errors import ConfigError
from amaru.models import cost
from amaru.models.cost import Workload
from amaru.models.decoder import DecoderConfig

COUNTS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}
BYTES = {f"{letter}{unit}": base**power for unit, base in (("b", 1000), ("ib", 1024)) for power, letter in enumerate("kmgt", 1)}


class Budget(Config):
    """`Budget(parameters=4_500_000_000)` or `Budget(memory=12 * 2**30, workload=Workload(context=32768))`.

    parameters   at most so many, embedding and head included
    memory       at most so many bytes for weights, KV and states of the workload; activations are not counted
    """

    parameters: int | None = Field(default=None, gt=0)
    memory: int | None = Field(default=None, gt=0)
    workload: Workload = Field(default_factory=Workload)

    def check(self) -> None:
        if self.parameters is None and self.memory is None:
            raise ConfigError("A Budget needs parameters, memory or both.")

    def used(self, parameters: int, memory: int) -> float:
        """The share of the tighter limit that a model of this cost takes; it fits up to 1."""
        limits = ((parameters, self.parameters), (memory, self.memory))
        return max(found / limit for found, limit in limits if limit is not None)

    def describe(self) -> str:
        parts = [] if self.parameters is None else [f"{self.parameters:,} parameters"]
        if self.memory is not None:
            parts.append(f"{self.memory / 2**20:,.1f} MiB at context {self.workload.context} and batch {self.workload.batch}")
        return " and ".join(parts)


def parse_budget(text: str, parent: DecoderConfig, workload: Workload | None = None) -> Budget:
    """`parse_budget("60%", parent)`, `"300M"`, `"1.5e6"` (parameters), `"2GiB"`, `"800MB"` (memory of the workload).

    A percentage is of the parent's parameters; B alone means 10^9 parameters. Raises `ConfigError` for anything else.
    """
    match = re.fullmatch(r"\s*(\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+)\s*(%|[A-Za-z]*)\s*", text)
    if match is None:
        raise ConfigError(_usage(text))
    number, unit = float(match[1]), match[2].lower()
    if unit == "%":
        if not 0 < number <= 100:
            raise ConfigError(f"A budget in percent is above 0 and at most 100; got '{text}'.")
        limits = {"parameters": int(cost.parameters(parent) * number / 100)}
    elif unit in COUNTS:
        limits = {"parameters": int(number * COUNTS[unit])}
    elif unit in BYTES:
        limits = {"memory": int(number * BYTES[unit])}
    else:
        raise ConfigError(_usage(text))
    if min(limits.values()) < 1:
        raise ConfigError(f"A budget of '{text}' is less than one; a share of the parent is written with a percent sign.")
    return Budget(**limits, workload=workload or Workload())


def _usage(text: str) -> str:
    return f"'{text}' is not a budget; write 60% of the parent, 300M or 1.2B parameters, or 2GiB or 800MB of memory."
