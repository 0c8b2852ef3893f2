"""NeMo: directories of NeMo 2 (weights/ and context/) in and out, and the older .nemo archives in."""

import json
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from amaru.config.atomic import atomic_directory, recover_directory
from amaru.errors import CheckpointError
from amaru.models.decoder import DecoderConfig
from amaru.models.families import read_json
from amaru.models.formats.fiddle import Call, graph
from amaru.models.formats.megatron.archive import TorchArchive
from amaru.models.formats.megatron.arguments import write_arguments
from amaru.models.formats.megatron.checkpoint import MegatronCheckpoint, Said, opened, settings
from amaru.models.formats.megatron.chunked import Box, Chunk, Chunked, ChunkedTensors, within
from amaru.models.formats.megatron.export import check_ranks, refuse_to_replace, write_iteration
from amaru.models.formats.megatron.folder import Directory, Folder, Range, Tar
from amaru.models.formats.megatron.supported import scheme_of
from amaru.models.formats.restricted_unpickler import StoredTensor
from amaru.models.source import Source

WEIGHTS, CONTEXT = "weights", "context"
MODEL_CONFIG, ARCHIVED = "model_config.yaml", "model_weights.ckpt"

# The model and config classes of NeMo 2 whose defaults are these families.
CLASSES = {
    True: ("nemo.collections.llm.gpt.model.ssm", "MambaModel", "NemotronHConfigBase"),
    False: ("nemo.collections.llm.gpt.model.nemotron", "NemotronModel", "NemotronConfig"),
}
ROOT = ("nemo.lightning.io.pl", "TrainerContext")

# Names in NeMo 2's configs by those among Megatron-LM's arguments.
RENAMED = {
    "norm_epsilon": "layernorm_epsilon",
    "num_experts": "num_moe_experts",
    "apply_layernorm_1p": "layernorm_zero_centered_gamma",
    "untie_embeddings_and_output_weights": "share_embeddings_and_output_weights",
}
FIELDS = (
    "num_layers hidden_size ffn_hidden_size num_attention_heads num_query_groups kv_channels seq_length vocab_size normalization "
    "norm_epsilon apply_layernorm_1p untie_embeddings_and_output_weights position_embedding_type rotary_base rotary_percent "
    "hybrid_override_pattern mamba_num_heads mamba_head_dim mamba_num_groups mamba_state_dim is_hybrid_model bf16 fp16 "
    "num_experts moe_router_topk moe_ffn_hidden_size moe_shared_expert_intermediate_size moe_router_num_groups moe_router_group_topk "
    "moe_router_topk_scaling_factor moe_latent_size moe_router_score_function moe_router_enable_expert_bias"
)


class NemoCheckpoint(MegatronCheckpoint):
    """`NemoCheckpoint("nemotron").read("layers.0.mixer.up_proj.weight")`: a directory that NeMo 2 wrote, or `export`.

    The config is that of a `config.json` beside the weights, or else of `context/model.yaml` or `context/io.json`; where both
    are, they must agree. Raises `CheckpointError` as `MegatronCheckpoint` does.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = recover_directory(path)
        self.directory = self.path / WEIGHTS
        if not self.directory.is_dir():
            raise CheckpointError(f"{path} has no directory {WEIGHTS}, so it is no checkpoint of NeMo 2.")
        self._open(opened(Directory(self.directory)), _context(self.path / CONTEXT), self.directory / "config.json")


class NemoArchive(MegatronCheckpoint):
    """`NemoArchive("nemotron-4.nemo").read("embedding.weight")`: read where it lies in the archive, nothing is unpacked.

    The weights may be a distributed checkpoint of any number of ranks (in zarr too, as Nemotron-4 340B has them), or the one file of
    a single rank. The config is that of `model_config.yaml`. A directory with the same contents is read too. Raises
    `CheckpointError` as `MegatronCheckpoint` does.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.exists():
            raise CheckpointError(f"There is no archive {path}.")
        folder = Directory(self.path) if self.path.is_dir() else Tar(self.path)
        config = folder.find(MODEL_CONFIG)
        if config is None:
            raise CheckpointError(f"{path} has no {MODEL_CONFIG}, so it is no .nemo archive.")
        said = settings(config), f"{MODEL_CONFIG} of {path}"
        self._open(_archived(folder), said, self.path / "config.json")


class OneFile(ChunkedTensors):
    """The tensors of a state dict that `torch.save` wrote, each of them one chunk."""

    def __init__(self, file: Range) -> None:
        self.path, self._archive = file.path, TorchArchive(file)
        held = self._archive.contents
        inner = held.get("state_dict", held) if isinstance(held, dict) else {}
        self._places = {name: value for name, value in inner.items() if isinstance(name, str) and isinstance(value, StoredTensor)}
        self.tensors = {name: _whole(place) for name, place in self._places.items()}

    def part(self, name: str, chunk: Chunk, wanted: Box) -> Tensor:
        start, stop = wanted[0]
        return self._archive.read(self._places[name], start, stop)[(slice(None), *within(wanted, chunk.box)[1:])]


def export(source: Source, path: str | Path, *, ranks: int = 1, dtype: torch.dtype | None = None) -> None:
    """`export(Checkpoint("student"), "nemo")`: a directory that NeMo 2 loads; `ranks` and `dtype` as in `megatron.export`.

    It has no tokenizer: NeMo asks for one of its own when a model is built from `context/`.
    """
    path = Path(path)
    refuse_to_replace(path, CONTEXT)
    check_ranks(source.config, ranks)
    with atomic_directory(path) as directory:
        (directory / WEIGHTS).mkdir()
        write_iteration(source, directory / WEIGHTS, ranks, dtype, prefix="module.")
        (directory / CONTEXT).mkdir()
        _write_context(source.config, dtype or source.dtype("embedding.weight"), directory / CONTEXT)


def _context(directory: Path) -> Said | None:
    """What `context/` says of the model: as YAML in newer checkpoints, as a graph of calls in all."""
    folder = Directory(directory)
    if file := folder.find("model.yaml"):
        return settings(file, "config"), str(file.path)
    if not (directory / "io.json").is_file():
        return None
    objects = read_json(directory / "io.json").get("objects")
    found = [each for each in objects.values() if _is_config(each)] if isinstance(objects, dict) else []
    if len(found) != 1 or not isinstance(found[0].get("items"), list):
        raise CheckpointError(f"{directory / 'io.json'} describes {len(found)} configs of a model; one is needed.")
    return dict(_leaf(item) for item in found[0]["items"]), str(directory / "io.json")


def _is_config(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("paths"), list) and "<root>.model.config" in entry["paths"]


def _leaf(item: Any) -> tuple[str, Any]:
    """One argument of a call: `["Attr(name='hidden_size')", {"type": "leaf", "value": 4096}]`; what is no plain value is None."""
    name, said = item if isinstance(item, list) and len(item) == 2 else ("", None)
    value = said.get("value") if isinstance(said, dict) and said.get("type") == "leaf" else None
    return str(name).removeprefix("Attr(name='").removesuffix("')"), value


def _archived(folder: Folder) -> ChunkedTensors:
    if file := folder.find(ARCHIVED):
        return OneFile(file)
    inside = folder.inside("model_weights")
    if inside.find("metadata.json") or inside.find(".metadata"):
        return opened(inside)
    raise CheckpointError(
        f"{folder.path} has neither {ARCHIVED} nor model_weights/metadata.json; the files of several ranks "
        "(mp_rank_00, tp_rank_00_pp_rank_000) are to be merged with NeMo first."
    )


def _whole(place: StoredTensor) -> Chunked:
    box = tuple((0, size) for size in place.shape)
    return Chunked(place.dtype, place.shape, (Chunk(box, ARCHIVED, 0, 0),))


def _write_context(config: DecoderConfig, dtype: torch.dtype, directory: Path) -> None:
    module, model, kind = CLASSES[scheme_of(config).hybrid]
    fields = _fields(config, dtype)
    call = Call(*ROOT, {"model": Call(module, model, {"config": Call(module, kind, fields)})})
    (directory / "io.json").write_text(json.dumps(graph(call)), encoding="utf-8")
    said = {"_target_": f"{module}.{model}", "config": {"_target_": f"{module}.{kind}", **fields}}
    (directory / "model.yaml").write_text(yaml.safe_dump(said, sort_keys=False), encoding="utf-8")


def _fields(config: DecoderConfig, dtype: torch.dtype) -> dict[str, Any]:
    said = write_arguments(config, dtype)
    fields = {RENAMED.get(name, name): said[name] for name in FIELDS.split() if name in said}
    divisor = next(power for power in (128, 64, 32, 16, 8, 4, 2, 1) if config.vocab % power == 0)
    return fields | {"share_embeddings_and_output_weights": config.tied, "make_vocab_size_divisible_by": divisor}
