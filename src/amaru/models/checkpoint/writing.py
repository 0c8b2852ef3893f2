"""A Hugging Face directory written from a decoder, or from tensors that come one by one."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import torch
from torch import Tensor

from amaru.config.atomic import atomic_directory
from amaru.errors import CheckpointError, ConfigError
from amaru.models.checkpoint.assembling import kept
from amaru.models.checkpoint.reading import Codes, shapes
from amaru.models.decoder import Decoder, DecoderConfig
from amaru.models.families import FIELD, family_for
from amaru.models.quantised import Encodings, Part, parts, quantised, say
from amaru.models.shards import write_shards
from amaru.models.tensor_file import NAMES, TORCH_DTYPES, Entry

Dtype = torch.dtype | Callable[[str], torch.dtype]
"""One dtype for all tensors, A_log, D and dt_bias in at least fp32; or what each is stored as, by name."""


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
    for part in parts(stored, shapes(config), encodings):
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
