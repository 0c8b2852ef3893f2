"""Who trains in a run: one process, or several that each hold a part (`several`)."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from amaru.models.checkpoint import load, save
from amaru.models.decoder import Decoder
from amaru.models.quantised import numbers
from amaru.train.objective import Objective
from amaru.train.settings import TrainConfig

Start = Callable[[], Decoder]


@dataclass(frozen=True)
class From:
    """`From("runs/demo/parent")()`: the checkpoint that a run starts from, with fp32 weights; several processes read their parts."""

    path: str

    def __call__(self) -> Decoder:
        return load(self.path, torch.float32)


class Team(Protocol):
    """What `fit` asks of whoever trains."""

    def model(self, start: Start, config: TrainConfig) -> Decoder: ...

    def objective(self, objective: Objective) -> Objective: ...

    def options(self, config: TrainConfig) -> dict[str, Any]:
        """Further arguments of `train`."""
        ...

    def save(self, decoder: Decoder, step: int, checkpoints: Path, path: Path, tokenizer: object) -> None:
        """Write the model as it was after `step`, the last or the best, as a Hugging Face directory."""
        ...


class One:
    """One process, which has all."""

    def model(self, start: Start, config: TrainConfig) -> Decoder:
        return numbers(start())

    def objective(self, objective: Objective) -> Objective:
        return objective

    def options(self, config: TrainConfig) -> dict[str, Any]:
        return {}

    def save(self, decoder: Decoder, step: int, checkpoints: Path, path: Path, tokenizer: object) -> None:
        save(decoder, path, tokenizer)


ONE = One()
