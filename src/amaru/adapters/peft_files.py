"""Adapters as `peft` keeps them: `adapter_config.json` and `adapter_model.safetensors`, in the names of transformers' models.

    write(decoder, "out")                  # stock `PeftModel.from_pretrained(model, "out")` computes what the decoder does
    read(decoder, "someones-adapter")      # made by peft on transformers' Nemotron-H, Llama or Nemotron
"""

import json
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from amaru.adapters.attach import attach, held
from amaru.adapters.lora import LoRA
from amaru.adapters.low_rank import LowRank
from amaru.adapters.method import Adapter
from amaru.adapters.targets import Site, sites
from amaru.config import atomic_directory
from amaru.errors import CheckpointError, ConfigError
from amaru.models.decoder import Decoder, DecoderConfig
from amaru.models.families import family_for, read_json
from amaru.models.tensor_file import Entry, TensorFile, listed, shown, write_tensors

SETTINGS, TENSORS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
LEAVES = {"lora_A.weight": "A", "lora_B.weight": "B", "lora_magnitude_vector": "magnitude"}
# What changes the function and is not read; each must be absent or empty.
REFUSED = (
    "fan_in_fan_out", "modules_to_save", "lora_bias", "trainable_token_indices", "target_parameters", "use_qalora", "layer_replication",
)


class Pair(NamedTuple):
    """What is added to one whole linear layer: scale · B A."""

    A: Tensor
    B: Tensor
    scale: float
    magnitude: Tensor | None


def write(decoder: Decoder, path: str | Path, name: str = "default", base_model: str | None = None) -> None:
    """Write an adapter in LoRA's format, whatever its method is: Tied-LoRA is unrolled into a pair per layer, segments are rows of zeros
    elsewhere. Outputs are the same; `base_model` is what `peft` will call the base.

    peft up to 0.21 refuses the out_proj of Nemotron-H, also when it loads a file; vLLM takes it.
    Raises `ConfigError` if the adapter is not there, and for DoRA of a segment, which the format cannot say.
    """
    adapter = held(decoder, name)
    stock = {ours: theirs for theirs, ours in _stock(decoder.config).items()}
    pairs = {stock[path]: pair for path, pair in _pairs(adapter, decoder.config).items()}
    tensors = {
        f"{PREFIX}{module}.{leaf}": tensor
        for module, pair in pairs.items()
        for leaf, factor in LEAVES.items()
        if (tensor := getattr(pair, factor)) is not None
    }
    with atomic_directory(path) as directory:
        write_tensors(directory / TENSORS, [Entry.of(*each) for each in tensors.items()], tensors.values())
        settings = json.dumps(_settings(adapter, pairs, base_model), indent=1)
        (directory / SETTINGS).write_text(settings, encoding="utf-8")


def read(decoder: Decoder, path: str | Path, name: str | None = None) -> Adapter:
    """Read a LoRA or DoRA that `peft` wrote, and switch it on; its name is that of the directory unless said.

    Raises `CheckpointError` for another kind of adapter, a setting that changes the function and is not known here, a damaged file, and
    for layers or shapes that this model does not have: the file does not say which base it was trained on.
    """
    directory = Path(path)
    settings = read_json(directory / SETTINGS)
    _check(settings, directory)
    pairs = _read_pairs(settings, TensorFile(directory / TENSORS), decoder.config)
    try:
        adapter = _adapter(settings, pairs, decoder)
    except ConfigError as error:
        raise CheckpointError(f"The adapter at {directory} does not fit this model: {error}") from None
    attach(decoder, adapter, name or directory.resolve().name)
    return adapter


def _stock(config: DecoderConfig) -> dict[str, str]:
    """By the name that transformers gives a linear layer ours; on disk Nemotron-H's begin with backbone, in memory with model."""
    ours = {site.path for site in sites(config).values()}
    stored = {each.name.removesuffix(".weight"): each.ours.removesuffix(".weight") for each in family_for(config).stored(config)}
    return {re.sub(r"^backbone\.", "model.", theirs): mine for theirs, mine in stored.items() if mine in ours}


def _pairs(adapter: Adapter, config: DecoderConfig) -> dict[str, Pair]:
    """By path what is added to each linear layer that is reached."""
    parts: dict[str, list[tuple[Site, slice, LowRank]]] = {}
    for block in adapter.blocks.values():
        for site, rows in block.parts():
            parts.setdefault(site.path, []).append((site, rows, adapter.change(block.name)))
    return {path: _pair(found, sites(config)[path].rows) for path, found in parts.items()}


@torch.no_grad()
def _pair(parts: list[tuple[Site, slice, LowRank]], height: int) -> Pair:
    """Segments of one layer side by side: their A below each other, their B each at its rows; scales that differ go into B."""
    scale, above, beside = parts[0][2].scale, [], []
    magnitude = parts[0][2].factor("magnitude")
    if magnitude is not None and parts[0][0].segment is not None:
        raise ConfigError(f"peft has no magnitude for rows of {parts[0][0].path} alone; reach it whole, or leave dora off.")
    for site, rows, change in parts:
        A, B = change.pair(rows, torch.float32)
        above.append(A)
        beside.append(F.pad(B * (change.scale / scale), (0, 0, site.start, height - site.stop)))
    return Pair(torch.cat(above), torch.cat(beside, dim=1), scale, None if magnitude is None else magnitude[parts[0][1]].float())


def _settings(adapter: Adapter, pairs: dict[str, Pair], base_model: str | None) -> dict[str, Any]:
    first = next(iter(pairs.values()))
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "r": len(first.A),
        "lora_alpha": first.scale * len(first.A),
        "rank_pattern": {module: len(pair.A) for module, pair in pairs.items()},
        "alpha_pattern": {module: pair.scale * len(pair.A) for module, pair in pairs.items()},
        "target_modules": [*pairs],
        "lora_dropout": adapter.method.dropout,
        "use_dora": first.magnitude is not None,
        "use_rslora": False,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }


def _check(settings: dict[str, Any], directory: Path) -> None:
    if settings.get("peft_type") != "LORA":
        raise CheckpointError(f"The adapter at {directory} is of peft_type {shown(settings.get('peft_type'))}; LORA is read.")
    asked = [key for key in REFUSED if settings.get(key)] + (["bias"] if settings.get("bias", "none") != "none" else [])
    if asked:
        raise CheckpointError(
            f"The adapter at {directory} sets {asked[0]} to {shown(settings[asked[0]])}, which changes what it computes and is not read."
        )


def _read_pairs(settings: dict[str, Any], file: TensorFile, config: DecoderConfig) -> dict[str, Pair]:
    """By path of ours what a file adds; every tensor of it is used."""
    stock, found = _stock(config), {}
    modules = dict.fromkeys(re.sub(r"\.lora_(A\.weight|B\.weight|magnitude_vector)$", "", name) for name in file.entries)
    for module in modules:
        theirs = re.sub(r"^backbone\.", "model.", module.removeprefix(PREFIX))
        names = {factor: f"{module}.{leaf}" for leaf, factor in LEAVES.items()}
        if not module.startswith(PREFIX) or theirs not in stock or not {names["A"], names["B"]} <= file.entries.keys():
            raise CheckpointError(f"{file.path} has tensors of {shown(module)}, no LoRA of any of this model's layers: {listed(stock)}.")
        tensors = {factor: file.read(name).float() for factor, name in names.items() if name in file.entries}
        if bool(settings.get("use_dora")) != ("magnitude" in tensors):
            raise CheckpointError(f"{file.path}: use_dora is {bool(settings.get('use_dora'))}, which does not fit the tensors of {theirs}.")
        found[stock[theirs]] = Pair(tensors["A"], tensors["B"], _scale(settings, theirs, len(tensors["A"])), tensors.get("magnitude"))
    return found


def _scale(settings: dict[str, Any], module: str, rank: int) -> float:
    """As peft computes it; a pattern is the end of a name, or a regular expression for one."""
    alpha = settings.get("lora_alpha", 8)
    for pattern, said in (settings.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            alpha = said
            break
    return alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)


def _adapter(settings: dict[str, Any], pairs: dict[str, Pair], decoder: Decoder) -> Adapter:
    """A LoRA of these pairs; ranks and scales that are not the first's are said by target, and by B."""
    first = next(iter(pairs.values()))
    ranks = {path: len(pair.A) for path, pair in pairs.items()}
    method = LoRA(
        rank=len(first.A),
        alpha=first.scale * len(first.A),
        targets=tuple(pairs),
        ranks={path: rank for path, rank in ranks.items() if rank != len(first.A)},
        dora=first.magnitude is not None,
        dropout=settings.get("lora_dropout", 0.0),
    )
    with torch.device(decoder.embedding.weight.device):
        dtype = torch.promote_types(decoder.embedding.weight.dtype, torch.float32)
        adapter = Adapter(method, method.blocks(decoder.config), dtype)
    for path, pair in pairs.items():
        change = adapter.change(path)
        given = {"A": pair.A, "B": pair.B * (pair.scale / change.scale), "magnitude": pair.magnitude}
        for factor, parameter in change.named_parameters():
            tensor = given[factor]
            if tensor is None or tensor.shape != parameter.shape:
                shape = None if tensor is None else list(tensor.shape)
                raise CheckpointError(f"{path} of the adapter has {factor} of shape {shape}; this model needs {list(parameter.shape)}.")
            parameter.data.copy_(tensor)
    return adapter
