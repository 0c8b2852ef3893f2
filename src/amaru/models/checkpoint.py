"""Checkpoints: a Hugging Face directory opened lazily, loaded into a decoder, or written from one."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from amaru.axes import TensorSpec
from amaru.config.atomic import atomic_directory, recover_directory
from amaru.errors import CheckpointError
from amaru.models.decoder import Decoder, DecoderConfig
from amaru.models.families import Stored, family_for, family_of, read_json
from amaru.models.shards import ShardReader, write_shards
from amaru.models.tensor_file import NAMES, TORCH_DTYPES, Entry, listed

READABLE = ("F64", "F32", "F16", "BF16")  # in the words of safetensors

Read = Callable[[str], Tensor]
Dtype = torch.dtype | Callable[[str], torch.dtype]
"""One dtype for all tensors, A_log, D and dt_bias in at least fp32; or what each is stored as, by name."""


class Checkpoint:
    """A checkpoint on disk under our own names: `Checkpoint(path).read("layers.0.mixer.A_log")`, in its stored dtype.

    Opening checks that the tensors are exactly those of the config, by name, shape and kind, before any is read.
    Raises `CheckpointError` naming what is missing, left over, of the wrong shape, or cut short.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = recover_directory(path)
        if not self.path.is_dir():
            raise CheckpointError(f"There is no checkpoint directory {path}.")
        self.values = read_json(self.path / "config.json")
        self._family = family_of(self.values)
        self.config: DecoderConfig = self._family.read_config(self.values)
        self._shards = ShardReader(self.path)
        found = self._found()
        self._files = self._held(found)
        self._tied_head = found.pop(head_name(self._family, self.config), None) if self.config.tied else None
        if found:
            raise CheckpointError(
                f"{self.path} has {len(found)} tensors that its config.json does not know: {listed(sorted(found.values()))}."
            )

    @property
    def names(self) -> list[str]:
        return list(self._files)

    def dtype(self, name: str) -> torch.dtype:
        held = self._files[name]
        return TORCH_DTYPES[self._shards.entries[held if isinstance(held, str) else held[0]].dtype]

    def read(self, name: str) -> Tensor:
        """One tensor in its stored dtype, put together where the file holds it in parts."""
        self._check_tied_head(name)
        held = self._files[name]
        if isinstance(held, str):
            return self._shards.read(held)
        tensor = torch.empty(self._shapes[name], dtype=self.dtype(name))
        for index, part in enumerate(held):
            tensor[index] = self._shards.read(part)
        return tensor

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Some of a tensor's first dimension, nothing else being read."""
        self._check_tied_head(name)
        held = self._files[name]
        if isinstance(held, str):
            return self._shards.rows(held, start, stop)
        return torch.stack([self._shards.read(part) for part in held[start:stop]])

    def _found(self) -> dict[str, str]:
        """The name of each tensor in the shards by its canonical one."""
        found: dict[str, str] = {}
        for name in sorted(self._shards.entries):
            other = found.setdefault(self._family.canonical(name), name)
            if other != name:
                raise CheckpointError(f"{self.path} holds one tensor under two names: {listed([other, name])}.")
        return found

    def _held(self, found: dict[str, str]) -> dict[str, str | list[str]]:
        """By our name what holds it in the shards, one tensor or one for each index; taken out of `found` and checked."""
        specs = self.config.tensors()
        self._shapes = {name: spec.layout.shape(axes) for name, (spec, axes) in specs.items()}
        held: dict[str, str | list[str]] = {}
        missing: list[str] = []
        for stored in self._family.stored(self.config):
            if (name := found.pop(stored.name, None)) is None:
                missing.append(stored.name)
                continue
            self._check(name, _shape(self._shapes[stored.ours], stored))
            if stored.index is None:
                held[stored.ours] = name
            else:
                held[stored.ours] = [*held.get(stored.ours, []), name]
                self._check_dtype(name, held[stored.ours][0])
        if missing:
            raise CheckpointError(f"{self.path} lacks {len(missing)} of {len(specs)} tensors: {listed(missing)}.")
        return {name: held[name] for name in specs}

    def _check(self, name: str, shape: tuple[int, ...]) -> None:
        entry = self._shards.entries[name]
        if entry.shape != shape:
            raise CheckpointError(f"{self.path}: tensor {name} has shape {list(entry.shape)}, but config.json asks for {list(shape)}.")
        if entry.dtype not in READABLE:
            raise CheckpointError(f"{self.path}: tensor {name} is stored as {entry.dtype}; amaru reads {', '.join(READABLE)}.")

    def _check_dtype(self, name: str, other: str) -> None:
        dtype, expected = (self._shards.entries[each].dtype for each in (name, other))
        if dtype != expected:
            raise CheckpointError(f"{self.path} stores {name} as {dtype} and {other}, which is part of the same tensor, as {expected}.")

    def _check_tied_head(self, name: str) -> None:
        """A head that is stored although it is tied must be the embedding; looked at when the embedding is."""
        if name != "embedding.weight" or not self._tied_head:
            return
        head, embedding = self._tied_head, str(self._files[name])
        self._check(head, self._shapes[name])
        for start in range(0, self.config.vocab, 1024):
            stop = min(start + 1024, self.config.vocab)
            if not torch.equal(self._shards.rows(head, start, stop), self._shards.rows(embedding, start, stop)):
                raise CheckpointError(
                    f"{self.path}: config.json says tie_word_embeddings, but {head} differs from {embedding}; set it to false to read both."
                )
        self._tied_head = None


def load(path: str | Path, dtype: torch.dtype | None = None) -> Decoder:
    """`load("runs/demo/parent")`: a decoder with the checkpoint's weights, tensor by tensor.

    `dtype` None keeps the stored one; A_log, D and dt_bias stay in at least fp32 whatever it is.
    """
    checkpoint = Checkpoint(path)
    return assemble(checkpoint.config, checkpoint.read, dtype)


def assemble(config: DecoderConfig, read: Read, dtype: torch.dtype | None = None) -> Decoder:
    """A decoder whose tensors come one by one from `read(name)`; nothing is held twice."""
    with torch.device("meta"):
        decoder = Decoder(config)
    for name, (spec, axes) in config.tensors().items():
        tensor = in_dtype(read(name), spec, dtype)
        assert tensor.shape == spec.layout.shape(axes), f"{name}: {tensor.shape}"
        place(decoder, name, tensor)
    if config.tied:
        decoder.tie()
    return decoder


def in_dtype(tensor: Tensor, spec: TensorSpec, dtype: torch.dtype | None) -> Tensor:
    """As a model computes with it: None keeps the stored dtype, but what `keep_fp32` says is always in at least fp32."""
    return tensor.to(kept(spec, dtype or tensor.dtype))


def kept(spec: TensorSpec, dtype: torch.dtype) -> torch.dtype:
    """The dtype of one tensor of a model in `dtype`."""
    return torch.promote_types(dtype, torch.float32) if spec.keep_fp32 else dtype


def place(decoder: Decoder, name: str, tensor: Tensor) -> None:
    """Make a tensor the parameter of this name."""
    *path, leaf = name.split(".")
    setattr(decoder.get_submodule(".".join(path)), leaf, torch.nn.Parameter(tensor))


def save(decoder: Decoder, path: str | Path, tokenizer: object | None = None, dtype: torch.dtype | None = None) -> None:
    """`save(student, "student", tokenizer)`: a Hugging Face directory that stock transformers loads; appears whole or not at all."""
    weights = {name: parameter.detach() for name, parameter in decoder.named_parameters()}
    write(path, decoder.config, weights.__getitem__, dtype or (lambda name: weights[name].dtype), tokenizer)


def write(
    path: str | Path,
    config: DecoderConfig,
    read: Read,
    dtype: Dtype,
    tokenizer: object | None = None,
    values: Mapping[str, Any] | None = None,
) -> None:
    """`write(out, config, read, torch.bfloat16)`: the streaming form of `save`; one tensor of `read(name)` is held at a time.

    `values` are further fields of `config.json`, such as `eos_token_id`. Replaces a checkpoint, never another directory: that is
    a `CheckpointError`.
    """
    path = Path(path)
    if path.exists() and not (path / "config.json").exists() and (path.is_file() or any(path.iterdir())):
        raise CheckpointError(f"{path} exists and is no checkpoint, so it is not replaced; choose another place.")
    family = family_for(config)
    plan = list(_planned(family, config, dtype))
    activations = next(TORCH_DTYPES[entry.dtype] for stored, entry in plan if stored.ours == "embedding.weight")
    said = family.write_config(config) | {"dtype": str(activations).removeprefix("torch."), **(values or {})}
    with atomic_directory(path) as directory:
        if tokenizer is not None:
            said |= {f"{name}_token_id": getattr(tokenizer, f"{name}_id") for name in ("bos", "eos", "pad")}
            tokenizer.save(directory)  # type: ignore[attr-defined]
        (directory / "config.json").write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
        write_shards(directory, [entry for _, entry in plan], _tensors(plan, read))


def fingerprint(path: str | Path) -> str:
    """16 hex digits of SHA-256 over config.json and the weights: two checkpoints with equal digits are the same model."""
    directory = Path(path)
    digest = hashlib.sha256((directory / "config.json").read_bytes())
    for file in sorted(directory.glob("*.safetensors")):
        with open(file, "rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]


def _planned(family: ModuleType, config: DecoderConfig, dtype: Dtype) -> Iterator[tuple[Stored, Entry]]:
    """What a checkpoint will hold, in writing order.

    A tied head is written out too where stock readers do not tie: transformers 5.23 would draw Nemotron-H's at random.
    """
    specs = config.tensors()
    for stored in family.stored(config if family.TIES_HEAD else replace(config, tied=False)):
        ours = "embedding.weight" if config.tied and stored.ours == "head.weight" else stored.ours
        spec, axes = specs[ours]
        found = kept(spec, dtype) if isinstance(dtype, torch.dtype) else dtype(ours)
        yield stored._replace(ours=ours), Entry(stored.name, NAMES[found], _shape(spec.layout.shape(axes), stored))


def _tensors(plan: list[tuple[Stored, Entry]], read: Read) -> Iterator[Tensor]:
    """The tensors of a plan as they are written; one that is written in parts is read once, and freed before the next is."""
    name, tensor = "", torch.empty(0)
    for stored, entry in plan:
        if stored.ours != name or stored.index is None:
            name, tensor = stored.ours, torch.empty(0)
            tensor = read(name)
        yield (tensor if stored.index is None else tensor[stored.index]).to(TORCH_DTYPES[entry.dtype])


def _shape(ours: tuple[int, ...], stored: Stored) -> tuple[int, ...]:
    return ours if stored.index is None else ours[1:]


def head_name(family: ModuleType, config: DecoderConfig) -> str:
    """What a head is called in a file, tied or not."""
    return next(stored.name for stored in family.stored(replace(config, tied=False)) if stored.ours == "head.weight")
