"""Who teaches: a model that runs along (`LiveTeacher`), or what it said of the same text before (`cache`)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from amaru.data.loader import TrainingBatch
from amaru.distill.hidden import states
from amaru.errors import ConfigError
from amaru.models.decoder import Decoder
from amaru.nn.batch import Batch

LOGITS_AT_ONCE = 2**25  # 128 MiB in fp32, of which the loss takes half a dozen copies


def chunk_of(vocab: int) -> int:
    """How many tokens have logits at a time: `chunk_of(131072) == 256`."""
    return max(1, min(1024, LOGITS_AT_ONCE // vocab))


class Beside(NamedTuple):
    """The distributions of teacher and student over the same outcomes, as logarithms [n, outcomes]."""

    log_p: Tensor
    log_q: Tensor


class Said(Protocol):
    """What a teacher says of the tokens of a batch that have a target: [n] of them."""

    @property
    def hidden(self) -> Mapping[int, Tensor]:
        """The residual stream behind the layers that were asked for, [n, hidden]."""
        ...

    def beside(self, logits: Tensor, rows: slice) -> Beside:
        """The teacher's distributions of the tokens `rows`, beside those of these logits [rows, vocab] of the student."""
        ...


class Teacher(Protocol):
    @property
    def temperature(self) -> float: ...

    def of(self, batch: TrainingBatch, layers: Sequence[int] = ()) -> Said:
        """What it says of a batch, and its hidden states behind some layers; raises `ConfigError` where it cannot."""
        ...


@dataclass(frozen=True)
class LiveTeacher:
    """`LiveTeacher(decoder).of(batch)`: it runs on each batch without gradients, in its own dtype, with weights or codes."""

    decoder: Decoder
    temperature: float = 1.0

    def __post_init__(self) -> None:
        self.decoder.requires_grad_(False)

    @torch.no_grad()
    def of(self, batch: TrainingBatch, layers: Sequence[int] = ()) -> Said:
        device = self.decoder.embedding.weight.device
        hidden, kept = states(self.decoder, Batch(batch.ids, batch.positions, batch.cu_seqlens).to(device), layers)
        counted = batch.counted.to(device)
        return LiveSaid(self, hidden[counted], {layer: state[counted] for layer, state in kept.items()})


@dataclass(frozen=True)
class LiveSaid:
    """Logits are made chunk by chunk of the last hidden states."""

    teacher: LiveTeacher
    last: Tensor
    hidden: Mapping[int, Tensor] = field(default_factory=dict)

    @torch.no_grad()
    def log_p(self, rows: slice) -> Tensor:
        return torch.log_softmax(self.teacher.decoder.logits(self.last[rows]) / self.teacher.temperature, dim=-1)

    def beside(self, logits: Tensor, rows: slice) -> Beside:
        log_p = self.log_p(rows).to(logits.device)
        if logits.shape[-1] != log_p.shape[-1]:
            raise ConfigError(
                f"The teacher has {log_p.shape[-1]} tokens and the student {logits.shape[-1]}; distillation needs one vocabulary."
            )
        return Beside(log_p, torch.log_softmax(logits / self.teacher.temperature, dim=-1))
