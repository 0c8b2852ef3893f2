"""Checkpoints: a Hugging Face directory opened lazily, loaded into a decoder, or written from one."""

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from amaru.axes import TensorSpec
from amaru.config.atomic import atomic_directory, recover_directory
from amaru.errors import CheckpointError
from amaru.models.decoder import Decoder, DecoderConfig
from amaru.models.families import family_for, family_of, read_json
from amaru.models.shards import DTYPES, ShardReader, write_shards

READABLE = ("F64", "F32", "F16", "BF16")  # in the words of safetensors


class Checkpoint:
    """A checkpoint on disk under our own names: `Checkpoint(path).read("layers.0.mixer.A_log")`.

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
        self._theirs = self._renamed()
        self._check_names()
        self._check_shapes()

    @property
    def names(self) -> list[str]:
        return list(self.config.tensors())

    def read(self, name: str) -> Tensor:
        """One tensor in its stored dtype; A_log, D and dt_bias in at least fp32."""
        tensor = self._shards.read(self._theirs[name])
        if name == "embedding.weight" and self._tied_head and not torch.equal(tensor, self._shards.read(self._tied_head)):
            raise CheckpointError(
                f"{self.path}: config.json says tie_word_embeddings, but {self._tied_head} differs from {self._theirs[name]}; "
                "set it to false to read both."
            )
        spec = self.config.tensors()[name][0]
        return _at_least_fp32(tensor) if spec.keep_fp32 else tensor

    @property
    def _head_name(self) -> str:
        """What a head is called in a file, tied or not."""
        return next(each.name for each in self._family.stored(replace(self.config, tied=False)) if each.ours == "head.weight")

    def _renamed(self) -> dict[str, str]:
        """Their names by ours."""
        theirs: dict[str, str] = {}
        ours = {stored.name: stored.ours for stored in self._family.stored(self.config)} | {self._head_name: "head.weight"}
        for name in self._shards.names:
            canonical = self._family.canonical(name)
            other = theirs.setdefault(ours.get(canonical, canonical), name)
            if other != name:
                raise CheckpointError(f"{self.path} holds one tensor under two names: {other} and {name}.")
        return theirs

    def _check_names(self) -> None:
        expected = set(self.config.tensors())
        self._tied_head = self._theirs.pop("head.weight", None) if self.config.tied else None
        missing, extra = sorted(expected - self._theirs.keys()), sorted(self._theirs.keys() - expected)
        if missing:
            listed = ", ".join(stored.name for stored in self._family.stored(self.config) if stored.ours in missing)
            raise CheckpointError(f"{self.path} lacks {len(missing)} of {len(expected)} tensors: {listed}.")
        if extra:
            listed = ", ".join(self._theirs[name] for name in extra)
            raise CheckpointError(f"{self.path} has {len(extra)} tensors that its config.json does not know: {listed}.")

    def _check_shapes(self) -> None:
        for name, (spec, axes) in self.config.tensors().items():
            expected, found = spec.layout.shape(axes), self._shards.shape(self._theirs[name])
            if expected != found:
                raise CheckpointError(
                    f"{self.path}: tensor {self._theirs[name]} has shape {list(found)}, but config.json asks for {list(expected)}."
                )
            if self._shards.dtype(self._theirs[name]) not in READABLE:
                raise CheckpointError(
                    f"{self.path}: tensor {self._theirs[name]} is stored as {self._shards.dtype(self._theirs[name])}; "
                    f"amaru reads {', '.join(READABLE)}."
                )


def load(path: str | Path, dtype: torch.dtype | None = None) -> Decoder:
    """`load("runs/demo/parent")`: a decoder with the checkpoint's weights, tensor by tensor.

    `dtype` None keeps the stored one; A_log, D and dt_bias stay in at least fp32 whatever it is.
    """
    checkpoint = Checkpoint(path)
    return assemble(checkpoint.config, checkpoint.read, dtype)


def assemble(config: DecoderConfig, read: Callable[[str], Tensor], dtype: torch.dtype | None = None) -> Decoder:
    """A decoder whose tensors come one by one from `read(name)`; nothing is held twice."""
    with torch.device("meta"):
        decoder = Decoder(config)
    for name, (spec, axes) in config.tensors().items():
        tensor = _stored(read(name), spec, dtype)
        assert tensor.shape == spec.layout.shape(axes), f"{name}: {tensor.shape}"
        _place(decoder, name, tensor)
    if config.tied:
        decoder.tie()
    return decoder


def save(decoder: Decoder, path: str | Path, tokenizer: object | None = None, dtype: torch.dtype | None = None) -> None:
    """`save(student, "student", tokenizer)`: a Hugging Face directory that stock transformers loads; appears whole or not at all."""
    weights = dict(decoder.named_parameters())
    tensors = ((name, _stored(weights[name], spec, dtype)) for name, (spec, _) in decoder.config.tensors().items())
    write(path, decoder.config, tensors, dtype or decoder.embedding.weight.dtype, tokenizer)


def write(
    path: str | Path, config: DecoderConfig, tensors: Iterable[tuple[str, Tensor]], dtype: torch.dtype, tokenizer: object | None = None
) -> None:
    """Write tensors under our names as they come; the streaming form of `save`.

    Replaces a checkpoint, never another directory: that is a `CheckpointError`.
    """
    path = Path(path)
    if path.exists() and not (path / "config.json").exists() and (path.is_file() or any(path.iterdir())):
        raise CheckpointError(f"{path} exists and is no checkpoint, so it is not replaced; choose another place.")
    family = family_for(config)
    values = family.write_config(config) | {"dtype": DTYPES[dtype]}
    with atomic_directory(path) as directory:
        if tokenizer is not None:
            values |= {f"{name}_token_id": getattr(tokenizer, f"{name}_id") for name in ("bos", "eos", "pad")}
            tokenizer.save(directory)  # type: ignore[attr-defined]
        (directory / "config.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        untied = replace(config, tied=False)  # names the head as well
        names = {stored.ours: stored.name for stored in family.stored(untied)}
        both = tensors if family.TIES_HEAD else _with_head(config, tensors)
        write_shards(directory, ((names[name], tensor) for name, tensor in both))


def fingerprint(path: str | Path) -> str:
    """16 hex digits of SHA-256 over config.json and the weights: two checkpoints with equal digits are the same model."""
    directory = Path(path)
    digest = hashlib.sha256((directory / "config.json").read_bytes())
    for file in sorted(directory.glob("*.safetensors")):
        with open(file, "rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]


def _with_head(config: DecoderConfig, tensors: Iterable[tuple[str, Tensor]]) -> Iterable[tuple[str, Tensor]]:
    """A tied head is written out as well: transformers 5.23 ties nothing in this family, and would draw a head at random."""
    for name, tensor in tensors:
        yield name, tensor
        if config.tied and name == "embedding.weight":
            yield "head.weight", tensor.clone()  # safetensors refuses two names for one storage


def _stored(tensor: Tensor, spec: TensorSpec, dtype: torch.dtype | None) -> Tensor:
    if spec.keep_fp32:
        return _at_least_fp32(tensor if dtype is None else tensor.to(torch.promote_types(dtype, torch.float32)))
    return tensor if dtype is None else tensor.to(dtype)


def _at_least_fp32(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _place(decoder: Decoder, name: str, tensor: Tensor) -> None:
    *path, leaf = name.split(".")
    setattr(decoder.get_submodule(".".join(path)), leaf, torch.nn.Parameter(tensor))
