"""What FP8 does to the tensors of a training run, looked at every so many steps: their scales, and what became zero."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from amaru.config.atomic import atomic_file
from amaru.config.records import read_lines
from amaru.models.decoder import Decoder
from amaru.precision.fp8 import Projection
from amaru.precision.fp8_cast import E4M3, E5M2, encode

FORMATS = {"input": E4M3, "weight": E4M3, "gradient": E5M2}


class Fp8Statistics:
    """`statistics = Fp8Statistics(out / "fp8.jsonl", every=50)`, then `attach(decoder, rows)`, and `after(step)` when each step is done.

    One line a looked-at step: `{"step": 50, "tensors": {"layers.2.mixer.in_proj": {"input": {"scale": 81.5, "underflow": 0.004}, ...}}}`.
    `scale` multiplies numbers into codes (None: the tensor was not finite); `underflow` is the share of its numbers that were not
    zero and became zero. With gradients accumulated it is the last part of the step. A run that goes on begins after the lines of
    the steps it repeats. Works with either engine, since it looks at what the layers are given; a step not looked at costs nothing.
    """

    def __init__(self, path: Path, every: int) -> None:
        self.path = path
        self.every = every
        self._found: dict[str, dict[str, dict[str, float | None]]] = {}
        self._looking = True  # at the first step of this process

    def attach(self, decoder: Decoder, rows: Sequence[Projection]) -> None:
        """Watch the projections that run in FP8."""
        for row in rows:
            if row.fp8:
                decoder.get_submodule(row.name).register_forward_hook(partial(self._see, row.name))

    def after(self, step: int) -> None:
        """Write what was seen in step `step` (counted from 1), and decide whether the next is looked at."""
        if self._found:
            before = [line for line in (read_lines(self.path) if self.path.exists() else []) if line["step"] < step]
            with atomic_file(self.path) as temporary:
                temporary.write_text("".join(json.dumps(line) + "\n" for line in [*before, {"step": step, "tensors": self._found}]))
        self._found = {}
        self._looking = (step + 1) % self.every == 0

    def _see(self, name: str, module: nn.Module, arguments: tuple[Tensor], y: Tensor) -> None:
        if self._looking and y.requires_grad:
            found = self._found.setdefault(name, {})
            found["input"], found["weight"] = look(arguments[0], "input"), look(module.get_parameter("weight"), "weight")
            y.register_hook(lambda gradient: found.update(gradient=look(gradient, "gradient")))


@torch.no_grad()
def look(x: Tensor, role: str) -> dict[str, Any]:
    """`look(x, "gradient")`: the scale and the share of underflow of one tensor in the format of its role."""
    codes, scale = encode(x, FORMATS[role])
    kept, present = ((codes.view(torch.int8) & 127) != 0).sum(), (x != 0).sum()
    return {"scale": scale if scale == scale else None, "underflow": float((present - kept) / present.clamp_min(1))}
