"""The state of a run on disk: whole or absent, a few deep, and never confused with that of another run.

    out/checkpoints/step-00000120/   model.safetensors  optimizer.safetensors  state.safetensors
    out/checkpoints/step-00000240/   ...

The state file holds the hashes of the other two, so a damaged checkpoint is recognised, and the one before is used.
"""

import logging
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from amaru.config import Artifact, atomic_directory, fingerprint_bytes, fingerprint_file
from amaru.errors import ArtifactError
from amaru.train.optim import AdamW

KIND, SCHEMA = "training checkpoint", 1
RANDOM, RANDOM_CUDA = "random state", "random state of the device"

log = logging.getLogger(__name__)


class Store(Protocol):
    """What the loop asks of whoever keeps its state: `Checkpoints` for one process; a distributed one looks the same."""

    def save(self, step: int, model: nn.Module, optimizer: AdamW, best: int | None = None) -> None:
        """Keep the state after `step` finished steps; that of step `best` is not to be removed."""
        ...

    def restore(self, model: nn.Module, optimizer: AdamW) -> int:
        """Put the newest whole state back; returns its step, or 0."""
        ...

    def restore_weights(self, step: int, model: nn.Module) -> None:
        """Put the weights of a step that was kept into the model."""
        ...

    def close(self) -> None:
        """Return when everything saved is on disk."""
        ...


@dataclass
class Checkpoints:
    """`Checkpoints(out / "checkpoints", made_from={"recipe": "9f…"})`: those of one run, which `made_from` identifies.

    keep           how many of the newest stay: one, and others to fall back on
    part           of a model what is saved, where the rest of it does not change
    in_background  a thread writes what `save` copied, and training goes on; takes the memory of that copy. One is written at a
                   time: the next `save` waits for it, and raises what went wrong with it
    """

    directory: Path
    made_from: dict[str, str]
    keep: int = 2
    in_background: bool = False
    part: Callable[[nn.Module], nn.Module] = lambda model: model
    _writer: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "checkpoint"), repr=False)
    _writing: "Future[None] | None" = None

    def save(self, step: int, model: nn.Module, optimizer: AdamW, best: int | None = None) -> None:
        """Save after `step` finished steps; raises `StorageError` on a full disk, older checkpoints then stay whole."""
        self._finish_writing()
        state = _State(step, weights(self.part(model)), _optimizer_state(model, optimizer) | _random_states(model))
        if self.in_background:
            self._writing = self._writer.submit(self._write, state.copied(), best)
        else:
            self._write(state, best)

    @property
    def writing(self) -> bool:
        """Whether a thread is writing just now."""
        return self._writing is not None and not self._writing.done()

    def close(self) -> None:
        """Return when the last one is whole on disk; raises what went wrong with it."""
        self._finish_writing()
        self._writer.shutdown()

    def restore(self, model: nn.Module, optimizer: AdamW) -> int:
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

    def restore_weights(self, step: int, model: nn.Module) -> None:
        """Put the weights that were saved after `step` into the model; raises `ArtifactError` when they are not whole."""
        path = self._path(step)
        try:
            self._verify(path)
        except _Damaged as damage:
            raise ArtifactError(f"{path} is damaged ({damage}); delete {self.directory.parent} to make the run anew.") from None
        _set_weights(self.part(model), load_file(path / "model.safetensors"))

    def _path(self, step: int) -> Path:
        return self.directory / f"step-{step:08d}"

    def _saved(self) -> list[Path]:
        return sorted(self.directory.glob("step-*"))

    def _finish_writing(self) -> None:
        writing, self._writing = self._writing, None
        if writing:
            writing.result()

    def _write(self, state: "_State", best: int | None) -> None:
        with atomic_directory(self._path(state.step)) as partial:
            save_file(state.weights, partial / "model.safetensors")
            save_file(state.others, partial / "optimizer.safetensors")
            hashes = {file.name: fingerprint_file(file) for file in sorted(partial.iterdir())}
            content = {"step": state.step, "files": hashes}
            Artifact(kind=KIND, schema=SCHEMA, made_from=self.made_from, content=content).save(partial / "state.safetensors")
        self._forget_old(best)

    def _forget_old(self, best: int | None) -> None:
        for old in self._saved()[: -self.keep]:
            if best is None or old != self._path(best):
                shutil.rmtree(old)

    def _verify(self, path: Path) -> Artifact:
        try:
            state = Artifact.load(path / "state.safetensors", kind=KIND, schema=SCHEMA)
        except ArtifactError as error:
            raise _Damaged(error) from None
        state.require(self.made_from, path)
        for name, expected in state.content["files"].items():
            if not (path / name).is_file() or fingerprint_file(path / name) != expected:
                raise _Damaged(f"{name} is not what was saved")
        return state

    def _load(self, path: Path, model: nn.Module, optimizer: AdamW) -> int:
        state = self._verify(path)
        _set_weights(self.part(model), load_file(path / "model.safetensors"))
        others = load_file(path / "optimizer.safetensors")
        torch.set_rng_state(others.pop(RANDOM))
        if RANDOM_CUDA in others:
            torch.cuda.set_rng_state(others.pop(RANDOM_CUDA), next(model.parameters()).device)
        _set_optimizer_state(model, optimizer, others)
        return state.content["step"]


@dataclass(frozen=True)
class _State:
    """What one checkpoint holds."""

    step: int
    weights: dict[str, Tensor]
    others: dict[str, Tensor]

    def copied(self) -> "_State":
        """The same, out of reach of the next step."""

        def copy(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: tensor.to("cpu", copy=True) for name, tensor in tensors.items()}

        return _State(self.step, copy(self.weights), copy(self.others))


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


@torch.no_grad()
def _set_weights(model: nn.Module, saved: dict[str, Tensor]) -> None:
    for name, tensor in weights(model).items():
        tensor.copy_(saved[name])


def _random_states(model: nn.Module) -> dict[str, Tensor]:
    device = next(model.parameters()).device
    return {RANDOM: torch.get_rng_state()} | ({RANDOM_CUDA: torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def _optimizer_state(model: nn.Module, optimizer: AdamW) -> dict[str, Tensor]:
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    return {f"{names[parameter]}/{key}": tensor for parameter, state in optimizer.state.items() for key, tensor in state.items()}


def _set_optimizer_state(model: nn.Module, optimizer: AdamW, tensors: dict[str, Tensor]) -> None:
    parameters = dict(model.named_parameters())
    for name, tensor in tensors.items():
        parameter, _, key = name.rpartition("/")
        optimizer.state[parameters[parameter]][key] = tensor.to(parameters[parameter].device)
