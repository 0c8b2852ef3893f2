"""An adapter on disk: a directory of `adapter.json` (method, settings, and what base it was trained on) and `adapter.safetensors`."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from amaru.adapters.attach import attach, base_of, held
from amaru.adapters.lora import LoRA
from amaru.adapters.method import Adapter
from amaru.adapters.tied_lora import TiedLoRA
from amaru.config import Config, atomic_directory, fingerprint_bytes, fingerprint_file, from_dict, to_dict
from amaru.errors import CheckpointError, ConfigError
from amaru.models.decoder import Decoder
from amaru.models.tensor_file import Entry, TensorFile, listed, write_tensors
from amaru.nn.linear import QuantisedLinear

SAMPLE = 4096  # numbers of a tensor that its hash reads: a base is recognised in milliseconds
SETTINGS, TENSORS = "adapter.json", "adapter.safetensors"


class Weight(Config):
    """A linear layer that is reached: its shape, and the hash of its numbers (None: they were codes)."""

    shape: tuple[int, int]
    hash: str | None


class Base(Config):
    """What an adapter was trained on: a hash of all that quantising leaves alone, and the layers that it reaches by path."""

    hash: str
    weights: dict[str, Weight]

    @classmethod
    def of(cls, decoder: Decoder, adapter: Adapter) -> "Base":
        paths = dict.fromkeys(site.path for block in adapter.blocks.values() for site in block.sites)
        return cls(hash=_hash(*_kept(decoder)), weights={path: _weight(decoder, path) for path in paths})


class Record(Config):
    """`adapter.json`."""

    format: Literal["amaru adapter"]
    version: Literal[1]
    method: Annotated[LoRA | TiedLoRA, Field(discriminator="method")]
    base: Base
    tensors: str


def save(decoder: Decoder, path: str | Path, name: str = "default") -> None:
    """`save(decoder, "adapters/french")`: the adapter of this name, shared tensors once, frozen random ones too.

    Raises `ConfigError` if it is not on the model or is merged, `StorageError` for a disk that is full.
    """
    adapter = held(decoder, name)
    tensors = dict(_tensors(adapter))
    with atomic_directory(path) as directory:
        write_tensors(directory / TENSORS, [Entry.of(*each) for each in tensors.items()], tensors.values())
        digest = fingerprint_file(directory / TENSORS)
        base = Base.of(decoder, adapter)
        record = Record(format="amaru adapter", version=1, method=adapter.method, base=base, tensors=digest)  # type: ignore[arg-type]
        (directory / SETTINGS).write_text(json.dumps(to_dict(record), indent=1), encoding="utf-8")


def load(decoder: Decoder, path: str | Path, name: str | None = None) -> Adapter:
    """Read an adapter and switch it on; its name is that of the directory unless said.

    >>> load(decoder, "adapters/french")

    An adapter fits a base in other precision or in codes as well. Raises `CheckpointError` for a file that is missing, damaged or of
    another version, and for another base: what differs is said.
    """
    directory = Path(path)
    record = _record(directory)
    with torch.device("meta"):
        adapter = _shaped(record, decoder, directory)
    _check_base(record.base, Base.of(decoder, adapter), directory)
    tensors = _read(directory, record, adapter)
    device = decoder.embedding.weight.device
    adapter.load_state_dict({key: tensors[_stored(key)].to(device) for key in adapter.state_dict()}, assign=True)
    adapter.train_factors(True)
    attach(decoder, adapter, name or directory.resolve().name)
    return adapter


def _record(directory: Path) -> Record:
    path = directory / SETTINGS
    try:
        return from_dict(Record, json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise CheckpointError(f"There is no adapter at {directory}: {SETTINGS} is missing.") from None
    except (ValueError, RecursionError, NotADirectoryError) as error:
        raise CheckpointError(f"{path} is not what `save` writes: {error}") from None


def _shaped(record: Record, decoder: Decoder, directory: Path) -> Adapter:
    try:
        return Adapter(record.method, record.method.blocks(decoder.config))
    except ConfigError as error:
        raise CheckpointError(f"The adapter at {directory} does not fit this model: {error}") from None


def _check_base(trained: Base, found: Base, directory: Path) -> None:
    for path in trained.weights.keys() | found.weights.keys():
        shapes = [list(base.weights[path].shape) if path in base.weights else "absent" for base in (trained, found)]
        if shapes[0] != shapes[1]:
            raise CheckpointError(f"The adapter at {directory} is for another model: {path} was {shapes[0]}, and is {shapes[1]} here.")
    if trained.hash != found.hash:
        raise CheckpointError(
            f"The adapter at {directory} was trained on another base of the same shapes ({trained.hash}, not {found.hash}); load that one."
        )
    for path, weight in trained.weights.items():
        if None not in (hashes := (weight.hash, found.weights[path].hash)) and hashes[0] != hashes[1]:
            raise CheckpointError(
                f"The adapter at {directory} was trained on another base: {path} has other numbers here ({hashes[0]}, not {hashes[1]})."
            )


def _read(directory: Path, record: Record, adapter: Adapter) -> dict[str, Tensor]:
    """Every tensor, after its name and shape were found right and the bytes of the file unchanged."""
    file = TensorFile(directory / TENSORS)
    if fingerprint_file(file.path) != record.tensors:
        raise CheckpointError(f"{file.path} is damaged: its bytes are not those that were saved.")
    asked = {name: tuple(tensor.shape) for name, tensor in _tensors(adapter)}
    held = {name: entry.shape for name, entry in file.entries.items()}
    if wrong := sorted(name for name in asked.keys() | held.keys() if asked.get(name) != held.get(name)):
        raise CheckpointError(f"{file.path} does not hold what {SETTINGS} says; these differ: {listed(wrong)}.")
    return {name: file.read(name) for name in asked}


def _tensors(adapter: Adapter) -> Iterator[tuple[str, Tensor]]:
    return ((_stored(key), tensor) for key, tensor in adapter.state_dict().items())


def _stored(key: str) -> str:
    """`layers.0.mixer.in_proj.B`, `groups.mamba2.in_proj.96x32.A`"""
    return key.removeprefix("own.").replace("/", ".")


def _weight(decoder: Decoder, path: str) -> Weight:
    base = base_of(decoder, path)
    if isinstance(base, QuantisedLinear):
        return Weight(shape=(len(base.codes), base.cols), hash=None)
    return Weight(shape=(len(base.weight), base.weight.shape[1]), hash=_hash(base.weight))


def _kept(decoder: Decoder) -> Iterator[Tensor]:
    """What stays as it is when projections become codes."""
    own = ((name, tensor) for name, tensor in decoder.named_parameters() if not name.startswith("adapters."))
    return (tensor for name, tensor in own if name == "embedding.weight" or tensor.dim() == 1)


def _hash(*tensors: Tensor) -> str:
    """Of evenly spread numbers of each, rounded to bfloat16: it is the same in whatever precision a checkpoint was loaded."""
    samples = (tensor.detach().flatten()[:: max(1, tensor.numel() // SAMPLE)] for tensor in tensors)
    return fingerprint_bytes(*(sample.to("cpu", torch.bfloat16).view(torch.int16).numpy().tobytes() for sample in samples))
