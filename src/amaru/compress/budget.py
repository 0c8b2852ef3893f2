"""What the student may cost: parameters, memory, time to a first token, time of a step, tokens per second; in any combination."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from pydantic import Field

from amaru.config import Config
from amaru.errors import ConfigError
from amaru.models.cost import Workload


class Cost(NamedTuple):
    """What a model costs, or what many do (arrays); None where a budget does not ask.

    parameters   embedding and head included; memory: bytes of weights, KV and states of the workload
    prefill      seconds for a prompt; decode: seconds of a step of the workload's batch
    throughput   tokens per second of the largest batch that fits; batch: how large that is
    """

    parameters: Any
    memory: Any
    prefill: Any = None
    decode: Any = None
    throughput: Any = None
    batch: Any = None

    def at(self, index: Any) -> "Cost":
        """One of many, or some of them."""
        return Cost(*(None if values is None else values[index] for values in self))

    def describe(self) -> str:
        parts = [f"{int(self.parameters):,} parameters", bytes_in_words(self.memory)]
        parts += [f"{name} {in_words(self[place])}" for place, name in ((2, "prefill"), (3, "decode")) if self[place] is not None]
        if self.throughput is not None:
            parts.append(f"{self.throughput:,.4g} tokens/s at batch {int(self.batch)}")
        return ", ".join(parts)


class Budget(Config):
    """`Budget(parameters=4_500_000_000)` or `Budget(memory=12 * 2**30, decode=0.03, workload=Workload(context=32768))`.

    parameters   at most so many, embedding and head included
    memory       at most so many bytes for weights, KV and states of the workload on one device, in the formats that it names
                 (`cost.Workload` says what each of them holds), and `reserve` bytes for all else, activations among it
    prefill      at most so many seconds for one prompt of `prompt` tokens
    decode       at most so many seconds for a step: one token more for each of the workload's sequences
    throughput   at least so many tokens per second, decoding the largest batch that fits `memory` (of at most `most_batch` sequences)
    """

    parameters: int | None = Field(default=None, gt=0)
    memory: int | None = Field(default=None, gt=0)
    reserve: int = Field(default=0, ge=0)
    prefill: float | None = Field(default=None, gt=0)
    decode: float | None = Field(default=None, gt=0)
    throughput: float | None = Field(default=None, gt=0)
    workload: Workload = Field(default_factory=Workload)
    prompt: int = Field(default=1024, gt=0)
    most_batch: int = Field(default=64, gt=0)

    def check(self) -> None:
        if not list(self.limits()):
            raise ConfigError("A Budget needs parameters, memory or both; or prefill, decode or throughput.")
        if self.throughput is not None and self.memory is None:
            raise ConfigError("Budget.throughput is that of the largest batch that fits; it needs memory, which says what fits.")
        if self.memory is not None and self.reserve >= self.memory:
            raise ConfigError(f"Budget.reserve must leave something of memory; got {self.reserve:,} of {self.memory:,} bytes.")

    @property
    def usable(self) -> int | None:
        """Bytes for weights, KV and states."""
        return None if self.memory is None else self.memory - self.reserve

    @property
    def timed(self) -> bool:
        """Whether it asks how long something takes."""
        return (self.prefill, self.decode, self.throughput) != (None, None, None)

    def limits(self) -> Iterator[tuple[str, float]]:
        """What is limited, by the names of `Cost`, and to what."""
        for name, limit in (("parameters", self.parameters), ("memory", self.usable), ("prefill", self.prefill), ("decode", self.decode)):
            if limit is not None:
                yield name, limit
        if self.throughput is not None:
            yield "throughput", self.throughput

    def shares(self, cost: Cost) -> dict[str, Any]:
        """By limit the share of it that is taken; a model fits where all are at most 1."""
        with np.errstate(divide="ignore"):
            return {
                name: np.divide(limit, cost.throughput) if name == "throughput" else getattr(cost, name) / limit
                for name, limit in self.limits()
            }

    def used(self, cost: Cost) -> Any:
        """The share of the tightest limit that a model of this cost takes; it fits up to 1."""
        return np.max(np.stack([np.asarray(share, dtype=np.float64) for share in self.shares(cost).values()]), axis=0)

    def describe(self) -> str:
        return " and ".join(self.said(name) for name, _ in self.limits())

    def said(self, name: str) -> str:
        """One limit in words."""
        use = self.workload
        if name == "parameters":
            return f"{self.parameters:,} parameters"
        if name == "memory":
            reserve = f" less {bytes_in_words(self.reserve)} in reserve" if self.reserve else ""
            return f"{bytes_in_words(self.memory or 0)}{reserve} at context {use.context} and batch {use.batch} ({use.describe()})"
        if name == "prefill":
            return f"{in_words(self.prefill)} for a prompt of {self.prompt} tokens"
        if name == "decode":
            return f"{in_words(self.decode)} for a step of {use.batch} sequences at context {use.context}"
        return f"{self.throughput:,.4g} tokens/s with as many sequences as fit, at most {self.most_batch}"


def bytes_in_words(size: Any) -> str:
    """`bytes_in_words(33_900_000_000) == "31.57 GiB"`; below a GiB in MiB."""
    return f"{size / 2**30:,.4g} GiB" if size >= 2**30 else f"{size / 2**20:,.4g} MiB"


def in_words(seconds: Any) -> str:
    """`in_words(0.0031) == "3.1 ms"`"""
    return f"{seconds:.3g} s" if abs(seconds) >= 1 else f"{1000 * seconds:.3g} ms"
