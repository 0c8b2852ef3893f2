"""Reward models on disk: a decoder's tensors, `reward.safetensors` with the head, and a `config.json` that names the attributes.

    config.json           {"model_type": "amaru_reward", "attributes": {...}, "pooled": "label-prefix", "system": "...", "decoder": {...}}
    model.safetensors     the decoder without an output layer, under its family's names
    reward.safetensors    weight [attributes, hidden] and bias [attributes]
    tokenizer.json, ...
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from amaru.config import Config, from_dict, to_dict
from amaru.data.tokenizer import Tokenizer
from amaru.errors import CheckpointError
from amaru.models import checkpoint
from amaru.models.checkpoint import Checkpoint
from amaru.models.decoder import Decoder
from amaru.models.families import REWARD, read_json
from amaru.models.reward.attributes import Attributes
from amaru.models.reward.head import give_head, head_bias, head_of
from amaru.models.reward.prompts import SYSTEM, Pooled, Prompts
from amaru.models.tensor_file import Entry, TensorFile, write_tensors

TENSORS = "reward.safetensors"
Objective = Literal["regression", "bradley-terry"]


class Said(Config):
    """What `config.json` says beside the decoder's own fields; `objective` is what the model learned, ratings or which of two is better."""

    attributes: Attributes
    objective: Objective = "regression"
    pooled: Pooled = "label-prefix"
    system: str = SYSTEM


class RewardModel(NamedTuple):
    """A decoder with its head, what the head's outputs are, and how conversations are put to it."""

    decoder: Decoder
    said: Said
    prompts: Prompts


def is_reward(path: str | Path) -> bool:
    """Whether a directory holds a reward model; the config alone is read."""
    file = Path(path) / "config.json"
    return file.is_file() and read_json(file).get("model_type") == REWARD


def said_of(path: str | Path) -> Said:
    """Attributes and prompt of a reward model. Raises `CheckpointError` for a directory that holds none."""
    return from_dict(Said, {name: value for name, value in _values(path).items() if name not in ("model_type", "decoder")})


def load(path: str | Path, dtype: torch.dtype | None = None, device: torch.device | str = "cpu") -> RewardModel:
    """`load("runs/reward/model").said.attributes`; `dtype` None keeps the stored one, the head stays in at least fp32.

    Raises `CheckpointError` as `Checkpoint` does, for a directory that holds another kind of model, and for a head of another shape.
    """
    said, tokenizer = said_of(path), Tokenizer.load(path)
    held = Checkpoint(path, _values(path)["decoder"])
    decoder = checkpoint.assemble(held.config, held.read, dtype, dict.fromkeys(held.encodings, held.codes), device)
    give_head(decoder, [0.0] * len(said.attributes.names))
    _read_head(Path(path), decoder)
    return RewardModel(decoder, said, Prompts(tokenizer, said.pooled, said.system))


def trunk(path: str | Path, device: torch.device | str = "cpu") -> Decoder:
    """The decoder of any checkpoint in fp32 without its output layer, which is not read: what a new reward model begins with."""
    held = Checkpoint(path)
    return checkpoint.assemble(replace(held.config, tied=True), held.read, torch.float32, device=device)


def save(decoder: Decoder, path: str | Path, tokenizer: Tokenizer, said: Said, dtype: torch.dtype | None = None) -> None:
    """`save(decoder, "runs/reward/model", tokenizer, said)`: appears whole or not at all; raises what `checkpoint.write` does."""
    weights = {name: parameter.detach() for name, parameter in decoder.named_parameters()}
    head = head_of(decoder)

    def finish(directory: Path) -> None:
        file = directory / "config.json"
        values = {"model_type": REWARD, **to_dict(said), "decoder": json.loads(file.read_text(encoding="utf-8"))}
        file.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        tensors = {"weight": head.weight.detach().cpu(), "bias": head_bias(head).detach().cpu()}
        write_tensors(directory / TENSORS, [Entry.of(*each) for each in tensors.items()], tensors.values())

    dtypes = dtype or (lambda name: weights[name].dtype)
    checkpoint.write(path, decoder.config, weights.__getitem__, dtypes, tokenizer, headless=True, finish=finish)


def _values(path: str | Path) -> Mapping[str, Any]:
    values = read_json(Path(path) / "config.json")
    if values.get("model_type") != REWARD or not isinstance(values.get("decoder"), dict):
        raise CheckpointError(f"{path} is no reward model: its config.json says model_type {values.get('model_type')!r}, not '{REWARD}'.")
    return values


@torch.no_grad()
def _read_head(path: Path, decoder: Decoder) -> None:
    file, head = TensorFile(path / TENSORS), head_of(decoder)
    wanted: dict[str, Tensor] = {"weight": head.weight, "bias": head_bias(head)}
    shapes = {name: entry.shape for name, entry in file.entries.items()}
    if shapes != {name: tuple(tensor.shape) for name, tensor in wanted.items()}:
        raise CheckpointError(f"{file.path} holds {shapes}; config.json asks for a weight of {list(wanted['weight'].shape)} and a bias.")
    for name, tensor in wanted.items():
        tensor.copy_(file.read(name))
