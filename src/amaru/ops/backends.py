"""Which implementation serves an op: backends in order of priority, each of which computes the same or says why it refuses."""

import functools
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from amaru.errors import BackendError

log = logging.getLogger(__name__)

REGISTERED: dict[str, "Op"] = {}
WARNED: set[str] = set()


def never(*args: Any, **kwargs: Any) -> None:
    """The `refuses` of a backend that serves every input, the `lacks` of one that runs on every machine."""


@dataclass(frozen=True)
class Backend:
    """An implementation of an op.

    `run` has exactly the op's signature. `refuses`, called with the same arguments, returns None or the reason
    as a fragment of a sentence: "needs a CUDA tensor, got device cpu". `lacks`, called without arguments and only for
    inputs that are not refused, does so for this machine: "needs a C++ compiler, found neither g++ nor clang++".
    """

    name: str
    run: Callable[..., Any]
    refuses: Callable[..., str | None] = never
    lacks: Callable[[], str | None] = never


class Row(NamedTuple):
    """One line of `explain`; `state` is chosen, available or refused."""

    op: str
    backend: str
    state: str
    reason: str


class Op:
    """An op and its backends, the most wanted first and the reference last.

    >>> ssd = Op("ssd", sample, Backend("native", native.ssd, native.refuses), Backend("reference", reference.ssd))
    >>> y, states = ssd(x, dt, A, B, C, D, cu_seqlens=cu_seqlens)

    The first backend that does not refuse is run; a warning is logged, once, when a better one lacks something on this
    machine. The environment variable `AMARU_SSD=reference` forces one: `BackendError` if there is none of that name or if
    it refuses. `sample(dtype)` makes small arguments `(args, kwargs)` for `explain`.
    """

    def __init__(self, name: str, sample: Callable[[torch.dtype], tuple[tuple, dict]], *backends: Backend) -> None:
        self.name = name
        self.variable = f"AMARU_{name.upper()}"
        self.sample = sample
        self.backends = {backend.name: backend for backend in backends}
        self._announced: set[str] = set()
        REGISTERED[name] = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.choose(*args, **kwargs).run(*args, **kwargs)

    def choose(self, *args: Any, **kwargs: Any) -> Backend:
        """The backend that serves these arguments."""
        forced = self.forced()
        refusals: dict[str, str] = {}
        lacking: list[str] = []
        for backend in [forced] if forced else self.backends.values():
            reason = backend.refuses(*args, **kwargs)
            if reason is None and (reason := backend.lacks()):
                lacking.append(f"{backend.name} {reason}")
            if reason is None:
                self._announce(backend, refusals, lacking)
                return backend
            refusals[backend.name] = reason
        reasons = "; ".join(f"{name} {reason}" for name, reason in refusals.items())
        advice = f" Unset {self.variable} to let another backend serve." if forced else ""
        raise BackendError(f"No allowed backend of {self.name} serves this input: {reasons}.{advice}")

    @functools.cached_property
    def lean(self) -> bool:
        """Whether the first backend may be run on all that it does not refuse, without asking the others.

        Found out once: asking costs ten times what a kernel of a decode step does, so those who call in such steps look here first.
        """
        first = next(iter(self.backends.values()))
        return self.forced() in (None, first) and first.lacks() is None

    def forced(self) -> Backend | None:
        """The backend named by the environment, if one is named."""
        name = os.environ.get(self.variable)
        if not name:
            return None
        if name not in self.backends:
            raise BackendError(f"{self.variable}={name} names no backend of {self.name}; it has: {', '.join(self.backends)}.")
        return self.backends[name]

    def explain(self) -> list[Row]:
        forced = self.forced()
        rows, taken = [], False
        for backend in self.backends.values():
            reason = self._refusal(backend)
            allowed = forced in (None, backend)
            if reason is not None:
                rows.append(Row(self.name, backend.name, "refused", reason))
            elif allowed and not taken:
                taken = True
                rows.append(Row(self.name, backend.name, "chosen", f"forced by {self.variable}" if forced else "first that serves"))
            else:
                rows.append(
                    Row(self.name, backend.name, "available", "another comes first" if allowed else f"{self.variable} forces another")
                )
        return rows

    def _refusal(self, backend: Backend) -> str | None:
        for dtype in (torch.float32, torch.bfloat16):
            args, kwargs = self.sample(dtype)
            if reason := backend.refuses(*args, **kwargs):
                return reason
        return backend.lacks()

    def _announce(self, backend: Backend, refusals: dict[str, str], lacking: list[str]) -> None:
        for reason in lacking:
            if reason not in WARNED:  # by any op: they share compiler and cache
                WARNED.add(reason)
                log.warning("amaru: %s; slower code serves instead (amaru env lists what serves what)", reason)
        if backend.name not in self._announced:
            self._announced.add(backend.name)
            why = "".join(f"; {name} {reason}" for name, reason in refusals.items())
            log.info("%s is served by %s%s", self.name, backend.name, why)


def explain() -> list[Row]:
    """Every op with its backends on this machine's CPU, in float32 and bfloat16.

    >>> for row in amaru.ops.explain(): print(row.op, row.backend, row.state, row.reason)
    ssd native chosen first that serves
    ssd chunked available another comes first

    Raises `BackendError` when an environment variable names a backend that does not exist.
    """
    return [row for op in REGISTERED.values() for row in op.explain()]
