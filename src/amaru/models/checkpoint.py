"""Checkpoints: a Hugging Face directory opened lazily, loaded into a decoder, or written from one."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import torch
from torch import Tensor

from amaru.axes import TensorSpec
from amaru.config.atomic import atomic_directory, recover_directory
from amaru.errors import CheckpointError, ConfigError
from amaru.models.decoder import Decoder, DecoderConfig
from amaru.models.families import FIELD, family_for, family_of, read_json
from amaru.models.quantised import Encodings, Part, encodings_of, parts, place_codes, quantised, say
from amaru.models.shards import ShardReader, write_shards
from amaru.models.tensor_file import NAMES, TORCH_DTYPES, Entry, listed
from amaru.ops.quantised_linear import dequantise

READABLE = ("F64", "F32", "F16", "BF16")  # in the words of safetensors

Read = Callable[[str], Tensor]
Codes = tuple[Tensor, Tensor]
Dtype = torch.dtype | Callable[[str], torch.dtype]
"""One dtype for all tensors, A_log, D and dt_bias in at least fp32; or what each is stored as, by name."""


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
        self._shapes = _shapes(self.config)
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


def load(path: str | Path, dtype: torch.dtype | None = None, device: torch.device | str = "cpu") -> Decoder:
    """`load("runs/demo/parent")`: a decoder with the checkpoint's weights, which go to `device` one by one.

    `dtype` None keeps the stored one; A_log, D and dt_bias stay in at least fp32 whatever it is.
    """
    checkpoint = Checkpoint(path)
    return assemble(checkpoint.config, checkpoint.read, dtype, dict.fromkeys(checkpoint.encodings, checkpoint.codes), device)


def assemble(
    config: DecoderConfig,
    read: Read,
    dtype: torch.dtype | None = None,
    codes: Mapping[str, Callable[[str], Codes]] = MappingProxyType({}),
    device: torch.device | str = "cpu",
) -> Decoder:
    """A decoder whose tensors come one by one from `read(name)`, or as codes from `codes[name](name)`; nothing is held twice."""
    with torch.device("meta"):
        decoder = Decoder(config)
    for name, (spec, axes) in config.tensors().items():
        shape = spec.layout.shape(axes)
        if name in codes:
            held, scales = codes[name](name)
            place_codes(decoder, name, held.to(device), scales.to(device), shape[-1])
            continue
        tensor = in_dtype(read(name), spec, dtype)
        assert tensor.shape == shape, f"{name}: {tensor.shape}"
        place(decoder, name, tensor.to(device))
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
    """`save(student, "student", tokenizer)`: a Hugging Face directory that stock transformers loads; appears whole or not at all.

    Weights that are codes are written as such, which only amaru reads.
    """
    weights, codes = {name: parameter.detach() for name, parameter in decoder.named_parameters()}, quantised(decoder)
    if hidden := [name for name in decoder.config.tensors() if name not in weights and name not in codes]:
        raise ConfigError(f"{hidden[0]} is hidden by an adapter; fold or detach adapters before the model itself is saved.")
    write(
        path,
        decoder.config,
        lambda name: (codes[name].codes, codes[name].scales) if name in codes else weights[name],
        dtype or (lambda name: weights[name].dtype),
        tokenizer,
        encodings={name: module.encoding for name, module in codes.items()},
    )


def write(
    path: str | Path,
    config: DecoderConfig,
    read: Callable[[str], Tensor | Codes],
    dtype: Dtype,
    tokenizer: object | None = None,
    values: Mapping[str, Any] | None = None,
    encodings: Encodings = MappingProxyType({}),
    source: str | None = None,
    headless: bool = False,
    finish: Callable[[Path], object] = lambda directory: None,
) -> None:
    """`write(out, config, read, torch.bfloat16)`: the streaming form of `save`; one tensor of `read(name)` is held at a time.

    `values` are further fields of `config.json`, such as `eos_token_id`. Of weights with an encoding `read` gives codes and scales;
    `source` is the fingerprint of what they were made from. A `headless` model is tied and nobody asks for its head, so none is written;
    `finish(directory)` puts further files beside, before the directory appears. Replaces a checkpoint, never another directory: that
    is a `CheckpointError`.
    """
    path = Path(path)
    if path.exists() and not (path / "config.json").exists() and (path.is_file() or any(path.iterdir())):
        raise CheckpointError(f"{path} exists and is no checkpoint, so it is not replaced; choose another place.")
    family = family_for(config)
    plan = list(_planned(family, config, dtype, encodings, family.TIES_HEAD or headless))
    activations = next(TORCH_DTYPES[entry.dtype] for part, entry in plan if part.ours == "embedding.weight")
    said = family.write_config(config) | {"dtype": str(activations).removeprefix("torch."), **(values or {})}
    if encodings:
        said[FIELD] = say(encodings, source)
    with atomic_directory(path) as directory:
        if tokenizer is not None:
            said |= {f"{name}_token_id": getattr(tokenizer, f"{name}_id") for name in ("bos", "eos", "pad")}
            tokenizer.save(directory)  # type: ignore[attr-defined]
        (directory / "config.json").write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
        write_shards(directory, [entry for _, entry in plan], _tensors(plan, read))
        finish(directory)


def fingerprint(path: str | Path) -> str:
    """16 hex digits of SHA-256 over config.json and the weights: two checkpoints with equal digits are the same model."""
    directory = Path(path)
    digest = hashlib.sha256((directory / "config.json").read_bytes())
    for file in sorted(directory.glob("*.safetensors")):
        with open(file, "rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]


def _planned(
    family: ModuleType, config: DecoderConfig, dtype: Dtype, encodings: Encodings, ties_head: bool
) -> Iterator[tuple[Part, Entry]]:
    """What a checkpoint will hold, in writing order.

    A tied head is written out too where stock readers do not tie: transformers 5.23 would draw Nemotron-H's at random.
    """
    stored = family.stored(config if ties_head else replace(config, tied=False))
    if config.tied:
        stored = [each._replace(ours="embedding.weight") if each.ours == "head.weight" else each for each in stored]
    specs = config.tensors()
    for part in parts(stored, _shapes(config), encodings):
        found = part.dtype or NAMES[kept(specs[part.ours][0], dtype) if isinstance(dtype, torch.dtype) else dtype(part.ours)]
        yield part, Entry(part.name, found, part.shape)


def _tensors(plan: list[tuple[Part, Entry]], read: Callable[[str], Tensor | Codes]) -> Iterator[Tensor]:
    """The tensors of a plan as they are written; one that is written in parts is read once, and freed before the next is."""
    name, held = "", ()
    for part, entry in plan:
        if part.ours != name or (part.index is None and part.number == 0):
            name, held = part.ours, ()
            made = read(name)
            held = (made,) if isinstance(made, Tensor) else made
            del made
        yield (held[part.number] if part.index is None else held[part.number][part.index]).to(TORCH_DTYPES[entry.dtype])


def _shapes(config: DecoderConfig) -> dict[str, tuple[int, ...]]:
    return {name: spec.layout.shape(axes) for name, (spec, axes) in config.tensors().items()}


def head_name(family: ModuleType, config: DecoderConfig) -> str:
    """What a head is called in a file, tied or not."""
    return next(stored.name for stored in family.stored(replace(config, tied=False)) if stored.ours == "head.weight")
