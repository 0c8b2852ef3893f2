"""The state of a run on disk: whole or absent, two deep, and never confused with that of another run.

    out/checkpoints/step-00000120/   model.safetensors  optimizer.safetensors  state.safetensors
    out/checkpoints/step-00000240/   ...

The state file holds the hashes of the other two, so a damaged checkpoint is recognised, and the one before is used.
"""

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from amaru.config import Artifact, atomic_directory, fingerprint_bytes, fingerprint_file
from amaru.errors import ArtifactError

KIND, SCHEMA = "training checkpoint", 1
KEPT = 2  # the newest, and one to fall back on
RANDOM = "random state"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoints:
    """`Checkpoints(out / "checkpoints", made_from={"recipe": "9f…"})`: those of one run, which `made_from` identifies."""

    directory: Path
    made_from: dict[str, str]

    def save(self, step: int, model: nn.Module, optimizer: Optimizer) -> None:
        """Save after `step` finished steps; raises `StorageError` on a full disk, older checkpoints then stay whole."""
        with atomic_directory(self.directory / f"step-{step:08d}") as partial:
            save_file(weights(model), partial / "model.safetensors")
            save_file(_optimizer_state(model, optimizer) | {RANDOM: torch.get_rng_state()}, partial / "optimizer.safetensors")
            hashes = {file.name: fingerprint_file(file) for file in sorted(partial.iterdir())}
            content = {"step": step, "files": hashes}
            Artifact(kind=KIND, schema=SCHEMA, made_from=self.made_from, content=content).save(partial / "state.safetensors")
        for old in self._saved()[:-KEPT]:
            shutil.rmtree(old)

    def restore(self, model: nn.Module, optimizer: Optimizer) -> int:
        """Put the newest whole checkpoint into model and optimizer; returns its step, or 0 when there is none.

        A damaged one is removed, and the log says so. Raises `ArtifactError` for a checkpoint of another run.
        """
        for leftover in self.directory.glob(".*.partial"):  # of a process that was killed while saving
            shutil.rmtree(leftover)
        for path in reversed(self._saved()):
            try:
                step = self._load(path, model, optimizer)
            except _Damaged as damage:
                log.warning("%s is damaged (%s); it is removed, and the checkpoint before it is used.", path, damage)
                shutil.rmtree(path)
                continue
            log.info("Continuing from step %d (%s).", step, path)
            return step
        return 0

    def _saved(self) -> list[Path]:
        return sorted(self.directory.glob("step-*"))

    def _load(self, path: Path, model: nn.Module, optimizer: Optimizer) -> int:
        try:
            state = Artifact.load(path / "state.safetensors", kind=KIND, schema=SCHEMA)
        except ArtifactError as error:
            raise _Damaged(error) from None
        state.require(self.made_from, path)
        for name, expected in state.content["files"].items():
            if not (path / name).is_file() or fingerprint_file(path / name) != expected:
                raise _Damaged(f"{name} is not what was saved")
        with torch.no_grad():
            saved = load_file(path / "model.safetensors")
            for name, tensor in weights(model).items():
                tensor.copy_(saved[name])
        tensors = load_file(path / "optimizer.safetensors")
        torch.set_rng_state(tensors.pop(RANDOM))
        _set_optimizer_state(model, optimizer, tensors)
        return state.content["step"]


def weights(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer once by name, tied ones under their first name."""
    return {name: tensor.detach() for name, tensor in [*model.named_parameters(), *model.named_buffers()]}


def fingerprint_weights(model: nn.Module) -> str:
    """A hash of names, dtypes, shapes and values."""
    hashes = []
    for name, tensor in weights(model).items():
        flat = tensor.cpu().contiguous().view(-1).view(torch.uint8)
        hashes.append(fingerprint_bytes(f"{name} {tensor.dtype} {list(tensor.shape)}", flat.numpy().tobytes()))
    return fingerprint_bytes(*hashes)


class _Damaged(Exception):
    """A checkpoint that is not whole; caught in this file."""


def _optimizer_state(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    return {f"{names[parameter]}/{key}": tensor for parameter, state in optimizer.state.items() for key, tensor in state.items()}


def _set_optimizer_state(model: nn.Module, optimizer: Optimizer, tensors: dict[str, Tensor]) -> None:
    parameters = dict(model.named_parameters())
    for name, tensor in tensors.items():
        parameter, _, key = name.rpartition("/")
        optimizer.state[parameters[parameter]][key] = tensor.to(parameters[parameter].device)
