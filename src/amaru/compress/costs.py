"""What a stack costs as a sum over its layers: counted once for each distinct layer, added up for any number of stacks."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from amaru.compress.budget import Budget, Cost
from amaru.models import cost
from amaru.models.decoder import DecoderConfig
from amaru.nn.layer import LayerConfig


class Times(Protocol):
    """How long a model takes, in seconds, as clocks that each add up over layers; the time is that of the slowest.

    A measured table has one clock, a roofline two: bytes that move and FLOPs that are done.
    """

    def prefill(self, config: DecoderConfig) -> tuple[float, ...]: ...

    def decode(self, config: DecoderConfig, batch: int) -> tuple[float, ...]: ...

    def describe(self) -> str: ...


class Costs:
    """`costs.of(costs.alone(hidden) + costs.layer(hidden, one) + costs.layer(hidden, other))`, a `Cost`.

    Vectors hold parameters, bytes of weights, bytes of one sequence, and the clocks of `times` for the prompt and for a step of
    each batch in `batches`. Times are known only where the budget asks for them.
    """

    def __init__(self, config: DecoderConfig, budget: Budget, times: Times | None = None) -> None:
        assert times is not None or not budget.timed, "a budget of time needs times"
        self._config, self._budget = config, budget
        self._times = times if budget.timed else None
        self.batches = batches(budget)
        self._known: dict[tuple[int, LayerConfig | None], np.ndarray] = {}
        self._clocks = len(self._times.prefill(config)) if self._times else 0

    def alone(self, hidden: int) -> np.ndarray:
        """The network without layers."""
        if (hidden, None) not in self._known:
            self._known[hidden, None] = self._counted(hidden, ())
        return self._known[hidden, None]

    def layer(self, hidden: int, layer: LayerConfig) -> np.ndarray:
        """What one layer adds."""
        if (hidden, layer) not in self._known:
            self._known[hidden, layer] = self._counted(hidden, (*layer.needs, layer)) - self._counted(hidden, layer.needs)
        return self._known[hidden, layer]

    def total(self, config: DecoderConfig) -> np.ndarray:
        """The vector of a whole stack."""
        return self.alone(config.hidden) + sum(self.layer(config.hidden, layer) for layer in config.layers)

    def of(self, total: np.ndarray) -> Cost:
        """The cost of a sum of vectors [..., quantities]; of many sums arrays [...]."""
        parameters, weights, sequence = (total[..., place] for place in range(3))
        memory = weights + self._budget.workload.batch * sequence
        if self._times is None:
            return Cost(parameters, memory)
        steps = self._steps(total)
        decode = steps[..., self.batches.index(self._budget.workload.batch), :].max(-1)
        found = Cost(parameters, memory, total[..., 3 : 3 + self._clocks].max(-1), decode)
        if self._budget.throughput is None:
            return found
        batch = self._largest(weights, sequence)
        return found._replace(throughput=batch / self._at(steps, np.maximum(1, batch)), batch=batch)

    def linear(self, batch: int) -> tuple[list[str], np.ndarray, np.ndarray]:
        """The budget as limits on sums, for a batch that is given: names, rows [limits, quantities], at most [limits].

        Of a throughput this is what `batch` sequences need: that they fit, and that a step of them is short enough.
        """
        budget, rows = self._budget, []
        first = 3 + self._clocks * (1 + self.batches.index(batch))
        own = 3 + self._clocks * (1 + self.batches.index(budget.workload.batch))
        for name, limit in budget.limits():
            if name == "parameters":
                rows.append((name, {0: 1.0}, limit))
            elif name == "memory":
                rows.append((name, {1: 1.0, 2: float(max(batch, budget.workload.batch))}, limit))
            else:
                start = {"prefill": 3, "decode": own, "throughput": first}[name]
                most = batch / limit if name == "throughput" else limit
                rows += [(name, {start + clock: 1.0}, most) for clock in range(self._clocks)]
        matrix = np.zeros((len(rows), 3 + self._clocks * (1 + len(self.batches))))
        for place, (_, entries, _) in enumerate(rows):
            for column, value in entries.items():
                matrix[place, column] = value
        return [name for name, _, _ in rows], matrix, np.array([most for _, _, most in rows])

    def _counted(self, hidden: int, layers: tuple[LayerConfig, ...]) -> np.ndarray:
        config = replace(self._config, hidden=hidden, layers=layers)  # type: ignore[arg-type]
        need = cost.memory(config, replace(self._budget.workload, batch=1))
        clocks: list[float] = []
        if self._times is not None:
            clocks = [*self._times.prefill(config), *(clock for batch in self.batches for clock in self._times.decode(config, batch))]
        return np.array([cost.parameters(config), need.weights, need.sequences, *clocks], dtype=np.float64)

    def _steps(self, total: np.ndarray) -> np.ndarray:
        """[..., batches, clocks]"""
        return total[..., 3 + self._clocks :].reshape(*total.shape[:-1], len(self.batches), self._clocks)

    def _largest(self, weights: np.ndarray, sequence: np.ndarray) -> np.ndarray:
        """How many sequences fit beside the weights, at most as many as the budget looks at."""
        assert self._budget.usable is not None
        room, most = self._budget.usable - weights, self._budget.most_batch
        return np.clip(np.floor(np.where(sequence > 0, room / np.maximum(sequence, 1), np.where(room >= 0, most, 0))), 0, most)

    def _at(self, steps: np.ndarray, batch: np.ndarray) -> np.ndarray:
        """Seconds of a step of any batch, straight lines between those that are known."""
        if len(self.batches) == 1:
            return steps[..., 0, :].max(-1)
        known = np.array(self.batches, dtype=np.float64)
        right = np.clip(np.asarray(np.searchsorted(known, batch)), 1, len(known) - 1)
        share = ((batch - known[right - 1]) / (known[right] - known[right - 1]))[..., None]
        low, high = (np.take_along_axis(steps, place[..., None, None], axis=-2)[..., 0, :] for place in (right - 1, right))
        return (low + share * (high - low)).max(-1)


def batches(budget: Budget) -> tuple[int, ...]:
    """The batches whose step is timed: the workload's, and for a throughput 1, 2, 4, ... up to the largest that is looked at."""
    powers: Sequence[int] = ()
    if budget.throughput is not None:
        powers = [2**power for power in range(budget.most_batch.bit_length()) if 2**power <= budget.most_batch] + [budget.most_batch]
    return tuple(sorted({budget.workload.batch, *powers}))
