"""What the student may cost: parameters, bytes of memory under a workload, or both."""

from pydantic import Field

from amaru.config import Config
from amaru.errors import ConfigError
from amaru.models.cost import Workload


class Budget(Config):
    """`Budget(parameters=4_500_000_000)` or `Budget(memory=12 * 2**30, workload=Workload(context=32768))`.

    parameters   at most so many, embedding and head included
    memory       at most so many bytes for weights, KV and states of the workload on one device, in the formats that it names
                 (`cost.Workload` says what each of them holds); activations are not counted
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
            use = self.workload
            parts.append(f"{self.memory / 2**20:,.4g} MiB at context {use.context} and batch {use.batch} ({use.describe()})")
        return " and ".join(parts)
