"""A Hugging Face directory opened lazily: what it holds is checked against its config, and read tensor by tensor."""

import hashlib
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from amaru.config.atomic import recover_directory
from amaru.errors import CheckpointError
from amaru.models.decoder import DecoderConfig
from amaru.models.families import family_of, read_json
from amaru.models.quantised import Part, encodings_of, parts
from amaru.models.shards import ShardReader
from amaru.models.tensor_file import TORCH_DTYPES, listed
from amaru.ops.quantised_linear import dequantise

READABLE = ("F64", "F32", "F16", "BF16")  # in the words of safetensors

Codes = tuple[Tensor, Tensor]


class Checkpoint:
    """A checkpoint on disk under our own names: `Checkpoint(path).read("layers.0.mixer.A_log")`, in its stored dtype.

    `encodings` tells which weights are stored as codes: `read` gives the numbers that they mean, in float32, and `codes` the codes.
    `values` are the fields of a model whose `config.json` says more than them.

    Opening checks that the tensors are exactly those of the config, by name, shape and kind, before any is read.
    Raises `CheckpointError` naming what is missing, left over, of the wrong shape, or cut short.
    """

    def __init__(self, path: str | Path, values: dict[str, Any] | None = None) -> None:
        self.path = recover_directory(path)
        if not self.path.is_dir():
            raise CheckpointError(f"There is no checkpoint directory {path}.")
        self.values = values or read_json(self.path / "config.json")
        self._family = family_of(self.values)
        self.config: DecoderConfig = self._family.read_config(self.values)
        self.encodings = encodings_of(self.values, self.config)
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
        stored = TORCH_DTYPES[self._shards.entries[held if isinstance(held, str) else held[0]].dtype]
        return torch.float32 if name in self.encodings else stored

    def read(self, name: str) -> Tensor:
        """One tensor in its stored dtype, put together where the file holds it in parts."""
        self._check_tied_head(name)
        return self._decoded(name, *self.codes(name)) if name in self.encodings else self._whole(self._files[name])

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Some of a tensor's first dimension, nothing else being read."""
        self._check_tied_head(name)
        if name in self.encodings:
            return self._decoded(name, *(self._rows(held, start, stop) for held in (self._files[name], self._scales[name])))
        return self._rows(self._files[name], start, stop)

    def codes(self, name: str) -> Codes:
        """Codes and scales of a weight that is stored as such, as `ops.quantised_linear` takes them, of all experts."""
        return self._whole(self._files[name]), self._whole(self._scales[name])

    def _whole(self, held: str | list[str]) -> Tensor:
        if isinstance(held, str):
            return self._shards.read(held)
        entry = self._shards.entries[held[0]]
        tensor = torch.empty(len(held), *entry.shape, dtype=TORCH_DTYPES[entry.dtype])
        for index, part in enumerate(held):
            tensor[index] = self._shards.read(part)
        return tensor

    def _rows(self, held: str | list[str], start: int, stop: int) -> Tensor:
        if isinstance(held, str):
            return self._shards.rows(held, start, stop)
        return torch.stack([self._shards.read(part) for part in held[start:stop]])

    def _decoded(self, name: str, codes: Tensor, scales: Tensor) -> Tensor:
        cols = self._shapes[name][-1]
        if codes.dim() == 2:
            return dequantise(codes, scales, cols, torch.float32)
        return torch.stack([dequantise(*each, cols, torch.float32) for each in zip(codes, scales, strict=True)])

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
        self._shapes = shapes(self.config)
        held: tuple[dict[str, str | list[str]], dict[str, str | list[str]]] = ({}, {})
        missing: list[str] = []
        for part in parts(self._family.stored(self.config), self._shapes, self.encodings):
            if (name := found.pop(part.name, None)) is None:
                missing.append(part.name)
                continue
            self._check(name, part)
            files = held[part.number]
            if part.index is None:
                files[part.ours] = name
            else:
                files[part.ours] = [*files.get(part.ours, []), name]
                self._check_dtype(name, files[part.ours][0])
        if missing:
            raise CheckpointError(f"{self.path} lacks {len(missing)} of {len(self._shapes)} tensors: {listed(missing)}.")
        self._scales = held[1]
        return {name: held[0][name] for name in self._shapes}

    def _check(self, name: str, part: Part) -> None:
        entry = self._shards.entries[name]
        if entry.shape != part.shape:
            raise CheckpointError(
                f"{self.path}: tensor {name} has shape {list(entry.shape)}, but config.json asks for {list(part.shape)}."
            )
        if part.dtype and entry.dtype != part.dtype:
            raise CheckpointError(f"{self.path}: tensor {name} is stored as {entry.dtype}, but config.json asks for {part.dtype}.")
        if not part.dtype and entry.dtype not in READABLE:
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
        self._check(head, Part(head, name, None, 0, self._shapes[name], None))
        for start in range(0, self.config.vocab, 1024):
            stop = min(start + 1024, self.config.vocab)
            if not torch.equal(self._shards.rows(head, start, stop), self._shards.rows(embedding, start, stop)):
                raise CheckpointError(
                    f"{self.path}: config.json says tie_word_embeddings, but {head} differs from {embedding}; set it to false to read both."
                )
        self._tied_head = None


def fingerprint(path: str | Path) -> str:
    """16 hex digits of SHA-256 over config.json and the weights: two checkpoints with equal digits are the same model."""
    directory = Path(path)
    digest = hashlib.sha256((directory / "config.json").read_bytes())
    for file in sorted(directory.glob("*.safetensors")):
        with open(file, "rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]


def shapes(config: DecoderConfig) -> dict[str, tuple[int, ...]]:
    return {name: spec.layout.shape(axes) for name, (spec, axes) in config.tensors().items()}


def head_name(family: ModuleType, config: DecoderConfig) -> str:
    """What a head is called in a file, tied or not."""
    return next(stored.name for stored in family.stored(replace(config, tied=False)) if stored.ours == "head.weight")
