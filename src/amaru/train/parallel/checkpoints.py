"""The state of a run on several processes: each writes what it holds, and as many as there are next time read what they will hold."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.fsdp import FSDPModule

from amaru.config import Artifact
from amaru.errors import AmaruError, StorageError
from amaru.models.decoder import DecoderConfig
from amaru.train.checkpoint import KIND, RANDOM, SCHEMA, Checkpoints
from amaru.train.optim import AdamW
from amaru.train.parallel.parts import Loading, Part, Saving
from amaru.train.parallel.spread import Spread, local
from amaru.train.parallel.storage import Reader, Writer

MOMENTS = ("exp_avg", "exp_avg_sq")
STEP = "step"  # of the optimizer, by parameter

Parts = dict[str, Part]


@dataclass
class SpreadCheckpoints(Checkpoints):
    """`SpreadCheckpoints(out / "checkpoints", made_from, spread=spread)`: a `Store` for any number of processes.

    Saved and restored by torch's distributed checkpoints (DCP); a checkpoint knows whole tensors and boxes of them, and nothing
    of the layout that wrote it. In the background only a copy of this process's state is taken before training goes on.
    """

    spread: Spread | None = None

    def __post_init__(self) -> None:
        assert self.spread is not None, "where the parts lie is known to a Spread"
        self._where = self.spread
        # The thread that writes must not mix its words with training's.
        self._talk = cast(dist.ProcessGroup, dist.new_group(backend="gloo")) if self.in_background else None

    def save(self, step: int, model: nn.Module, optimizer: AdamW, best: int | None = None) -> None:
        self._finish_writing()
        parts = self._weights(model) | self._moments(model, optimizer) | {RANDOM: _vector(torch.get_rng_state())}
        if self.in_background:
            self._writing = self._writer.submit(self._write_parts, step, {name: part.copied() for name, part in parts.items()}, best)
        else:
            self._write_parts(step, parts, best)

    def restore(self, model: nn.Module, optimizer: AdamW) -> int:
        """The first process looks for the newest whole one, removing those that are damaged; all read it."""
        step = torch.tensor([super().restore(model, optimizer) if self._where.leads else 0])
        dist.broadcast(step, 0)
        if found := int(step):
            self._read(found, self._weights(model))
            saved = _reader(self._path(found)).read_metadata().state_dict_metadata
            for name, parameter in model.named_parameters():
                if f"{name}/{STEP}" in saved:  # the others never had a gradient
                    optimizer.state[parameter] = _fresh(parameter)
            moments, random = self._moments(model, optimizer), torch.get_rng_state()
            self._read(found, moments | {RANDOM: _vector(random)})
            torch.set_rng_state(random)
        return found

    def restore_weights(self, step: int, model: nn.Module) -> None:
        self._read(step, self._weights(model))

    def _load(self, path: Path, model: nn.Module, optimizer: AdamW) -> int:
        return self._verify(path).content["step"]

    def _weights(self, model: nn.Module) -> Parts:
        if isinstance(model, FSDPModule):
            model.reshard()  # after a validation the outermost weights are still gathered, and would be others than the optimizer's
        return {name: self._part(name, parameter, parameter) for name, parameter in model.named_parameters()}

    def _moments(self, model: nn.Module, optimizer: AdamW) -> Parts:
        parts: Parts = {}
        for name, parameter in model.named_parameters():
            if state := optimizer.state.get(parameter):
                parts |= {f"{name}/{key}": self._part(name, parameter, state[key]) for key in MOMENTS}
                parts[f"{name}/{STEP}"] = _vector(state[STEP].view(1))
        return parts

    def _part(self, name: str, parameter: nn.Parameter, tensor: Tensor) -> Part:
        return Part(whole_shape(self._where.parts.config, name), self._where.kept(name, parameter), local(tensor.detach()))

    def _write_parts(self, step: int, parts: Parts, best: int | None) -> None:
        def seal(directory: Path, hashes: dict[str, str]) -> None:
            content = {"step": step, "files": hashes}
            Artifact(kind=KIND, schema=SCHEMA, made_from=self.made_from, content=content).save(directory / "state.safetensors")

        try:
            save(cast(dict[str, Any], parts), storage_writer=Writer(self._path(step), seal), planner=Saving(), process_group=self._talk)
        except CheckpointException as failed:
            raise _first(failed) from None
        if self._where.leads:
            self._forget_old(best)

    def _read(self, step: int, parts: Parts) -> None:
        read_parts(self._path(step), parts)


def read_parts(path: Path, parts: Parts, *, alone: bool = False) -> None:
    """Fill parts from a finished checkpoint; `alone` where no other process takes part."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # which is what `alone` says
        load(cast(dict[str, Any], parts), storage_reader=_reader(path), planner=Loading(), no_dist=alone)


def whole(path: Path, config: DecoderConfig, name: str) -> Tensor:
    """One weight of a finished checkpoint, put together in one process, whatever the layout that wrote it."""
    tensor = torch.empty(whole_shape(config, name))
    read_parts(path, {name: Part(tuple(tensor.shape), (None,) * tensor.ndim, tensor)}, alone=True)
    return tensor


def whole_shape(config: DecoderConfig, name: str) -> tuple[int, ...]:
    spec, axes = config.tensors()[name]
    return spec.layout.shape(axes)


def _reader(path: Path) -> Reader:
    return Reader(path, sorted(Artifact.load(path / "state.safetensors", kind=KIND, schema=SCHEMA).content["files"]))


def _vector(tensor: Tensor) -> Part:
    """A tensor that every process has; one of them writes it."""
    return Part(tuple(tensor.shape), (None,), tensor)


def _fresh(parameter: nn.Parameter) -> dict[str, Tensor]:
    """What AdamW begins with, in the layout of the parameter."""
    step = torch.zeros((), dtype=torch.float32, device=parameter.device)
    return {STEP: step} | {key: torch.zeros_like(parameter, requires_grad=False) for key in MOMENTS}


def _first(failed: CheckpointException) -> Exception:
    """What went wrong, of whichever process; a sentence of ours as it is."""
    errors = [error for error, _ in failed.failures.values()]
    ours = next((error for error in errors if isinstance(error, AmaruError)), None)
    return ours or StorageError(f"The checkpoint could not be written: {errors[0]}.")  # type: ignore[return-value]
