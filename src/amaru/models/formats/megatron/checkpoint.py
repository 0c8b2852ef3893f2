"""A Megatron checkpoint as a source: our config, and tensors under our names, read as they are asked for."""

import json
import re
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from amaru.axes import size
from amaru.config.atomic import recover_directory
from amaru.errors import CheckpointError
from amaru.models.decoder import DecoderConfig
from amaru.models.families import family_of, read_json
from amaru.models.families.fields import LARGEST_JSON
from amaru.models.formats.megatron.archive import TorchArchive
from amaru.models.formats.megatron.arguments import read_arguments, write_arguments
from amaru.models.formats.megatron.chunked import ChunkedTensors
from amaru.models.formats.megatron.folder import Directory, Folder, Range
from amaru.models.formats.megatron.gather import Readable, gather
from amaru.models.formats.megatron.layouts import Packed, Place, Scheme, packed_tensors
from amaru.models.formats.megatron.supported import scheme_of
from amaru.models.formats.megatron.torch_dist import TorchDist
from amaru.models.formats.megatron.zarr import Zarr
from amaru.models.formats.restricted_unpickler import Record
from amaru.models.tensor_file import listed

Said = tuple[Mapping[str, Any], str]
"""What was said of a model, and where."""

TRACKER = "latest_checkpointed_iteration.txt"
EMBEDDING = "embedding.word_embeddings.weight"
ROOTS = ("embedding.", "decoder.", "output_layer.", "mtp.", "rotary_pos_emb.")
READABLE = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
MOST_PADDING = 16384  # rows of an embedding beyond the vocabulary: 128 for each of 128 ranks
LIMITS = ("seq_length", "max_position_embeddings", "vocab_size", "padded_vocab_size")  # of a run, not of the function

# Norms of models without Transformer Engine are modules of their own.
ALONE = {
    "self_attention.linear_qkv.layer_norm_": "input_layernorm.",
    "mlp.linear_fc1.layer_norm_": "pre_mlp_layernorm.",
    "mixer.in_proj.layer_norm_": "norm.",
}


class MegatronCheckpoint:
    """`MegatronCheckpoint("checkpoints").read("layers.0.mixer.in_proj.weight")`: Nemotron-H or Nemotron-4, of any number of ranks.

    `path` is a directory with `latest_checkpointed_iteration.txt`, or of one iteration. The config is that of a `config.json`
    beside the tensors, or else of the arguments kept with them; where both are, they must agree. `notes` say what was left out.
    Raises `CheckpointError` naming what is missing, left over, of the wrong shape, cut short, or not agreed upon.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = recover_directory(path)
        if not self.path.is_dir():
            raise CheckpointError(f"There is no checkpoint directory {path}.")
        self.directory = iteration_directory(self.path)
        folder = Directory(self.directory)
        self._open(opened(folder), arguments(folder), self.directory / "config.json")

    def _open(self, held: ChunkedTensors, said: Said | None, config: Path) -> None:
        self._held = held
        self.notes: list[str] = []
        self._names = _by_canonical_name(held.tensors)
        if EMBEDDING not in self._names:
            raise CheckpointError(f"{held.path} has no {EMBEDDING}, so it holds no model that amaru reads.")
        rows, *_ = (*held.tensors[self._names[EMBEDDING]].shape, 0)
        self.config = agreed(read_json(config) if config.is_file() else None, said, rows, held.path)
        self._specs = self.config.tensors()
        self._packed: dict[str, tuple[Packed, str]] = {}
        self._check()

    @property
    def names(self) -> list[str]:
        return list(self._specs)

    def dtype(self, name: str) -> torch.dtype:
        packed, _ = self._packed[name]
        return self._held.tensors[self._names[next(iter(packed.theirs.values())).name]].dtype

    def read(self, name: str) -> Tensor:
        spec, axes = self._specs[name]
        return self.rows(name, 0, spec.layout.shape(axes)[0])

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Some of a tensor's first dimension, nothing else being read where they lie together."""
        packed, part = self._packed[name]
        theirs = [self._readable(packed, part, place) for part, place in packed.theirs.items()]
        return gather(theirs, packed.for_ours(part)[start:stop])

    def _readable(self, packed: Packed, part: str, place: Place) -> Readable:
        count = size(packed.theirs_dimensions(part)[0], packed.axes)
        return Readable(count, partial(self._held.rows, self._names[place.name], layer=place.layer))

    def _check(self) -> None:
        """Exactly the tensors of the config are there, by name, shape and kind."""
        stacked = any(name.startswith("decoder.layers.") and not name.split(".")[2].isdigit() for name in self._names)
        scheme = scheme_of(self.config)
        if scheme.hybrid and stacked:
            raise CheckpointError(f"{self._held.path} stacks its layers in one tensor, which no hybrid model does.")
        split = not any(name.endswith(".mixer.in_proj.weight") for name in self._names)
        missing: list[str] = []
        expected: set[str] = set()
        for packed in packed_tensors(self.config, Scheme(scheme.hybrid, stacked, split)):
            self._packed |= {name: (packed, part) for part, name in packed.ours.items()}
            for part, place in packed.theirs.items():
                if (found := self._found(place.name)) is None:
                    missing.append(place.name)
                    continue
                expected |= {place.name, found}
                self._check_one(packed, part, place)
        if missing:
            raise CheckpointError(f"{self._held.path} lacks {len(set(missing))} tensors: {listed(sorted(set(missing)))}.")
        self._leave_out(expected)

    def _found(self, name: str) -> str | None:
        """The name under which a tensor is there, which `name` then stands for."""
        alone = next((name.replace(fused, other) for fused, other in ALONE.items() if fused in name), name)
        found = {self._names[each]: each for each in (name, alone) if each in self._names}
        if len(found) > 1:
            raise CheckpointError(f"{self._held.path} holds one tensor under two names: {listed(found)}.")
        for theirs, each in found.items():
            self._names[name] = theirs
            return each
        return None

    def _check_one(self, packed: Packed, part: str, place: Place) -> None:
        name = self._names[place.name]
        tensor = self._held.tensors[name]
        rows, *columns = (size(dimension, packed.axes) for dimension in packed.theirs_dimensions(part))
        over_vocabulary = packed.sharded == "vocab" and packed.sharded_dimension(part) == 0
        padding = tensor.shape[0] - rows if over_vocabulary and tensor.shape else 0
        if not 0 <= padding <= MOST_PADDING or tensor.shape != (*place.lead, rows + padding, *columns):
            shape = list(tensor.shape)
            raise CheckpointError(
                f"{self._held.path}: {name} has shape {shape}, but its config asks for {[*place.lead, rows, *columns]}."
            )
        if padding and place.name == EMBEDDING:
            self.notes.append(f"{padding} rows of padding behind a vocabulary of {rows} are left out")
        if tensor.dtype not in READABLE:
            raise CheckpointError(f"{self._held.path}: {name} is stored as {tensor.dtype}; amaru reads {listed(map(str, READABLE))}.")
        if not tensor.whole:
            raise CheckpointError(f"{self._held.path}: the chunks of {name} do not make up its shape {list(tensor.shape)}.")

    def _leave_out(self, expected: set[str]) -> None:
        """Training state is left out, with a note; a tensor of the model that the config does not know is an error."""
        rest = sorted(self._names.keys() - expected)
        unknown = [self._names[name] for name in rest if name.startswith(ROOTS)]
        if self.config.tied and "output_layer.weight" in unknown:
            raise CheckpointError(f"{self._held.path} has an output_layer.weight, but its config ties the head to the embedding.")
        if unknown:
            raise CheckpointError(f"{self._held.path} has {len(unknown)} tensors that its config does not know: {listed(unknown)}.")
        if rest:
            self.notes.append(f"{len(rest)} tensors of the training state are left out")


def iteration_directory(path: Path) -> Path:
    """The directory that holds the tensors: `path`, or the iteration in it that its tracker names."""
    if not (path / TRACKER).is_file():
        return path
    said = (path / TRACKER).read_bytes()[:32].decode("ascii", "replace").strip()
    if said != "release" and not re.fullmatch(r"\d{1,12}", said):
        raise CheckpointError(f"{path / TRACKER} says {said!r}; the number of an iteration, or 'release', is needed.")
    directory = path / (said if said == "release" else f"iter_{int(said):07d}")
    if not directory.is_dir():
        raise CheckpointError(f"{path} lacks the directory {directory.name} that {TRACKER} names.")
    return directory


def opened(folder: Folder) -> ChunkedTensors:
    """The tensors of a distributed checkpoint, of the kind that its `metadata.json` names."""
    file = folder.find("metadata.json")
    try:
        kind = json.loads(file.bytes(LARGEST_JSON)).get("sharded_backend") if file else "torch_dist"
    except (ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{folder.path / 'metadata.json'} is not a JSON object: {error}.") from None
    if kind not in ("torch_dist", "zarr"):
        raise CheckpointError(f"{folder.path} is a Megatron checkpoint of kind {str(kind)[:40]!r}; amaru reads 'torch_dist' and 'zarr'.")
    return TorchDist(folder) if kind == "torch_dist" else Zarr(folder)


def arguments(folder: Folder) -> Said | None:
    """What a training run said of its model, and where: arguments in common.pt (Megatron-LM), or run_config.yaml (Megatron-Bridge)."""
    common = folder.find("common.pt")
    held = TorchArchive(common).contents if common else {}
    said = held.get("args") if isinstance(held, dict) else None
    if isinstance(said, Record):
        return said.fields, str(folder.path / "common.pt")
    run = folder.find("run_config.yaml")
    return (settings(run, "model"), str(folder.path / "run_config.yaml")) if run else None


def settings(file: Range, *sections: str) -> dict[str, Any]:
    """Plain values of one section of a YAML file, functions and classes by their names; nothing of it is imported."""
    try:
        values: Any = yaml.safe_load(file.bytes(LARGEST_JSON))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file.path} holds no plain YAML: {str(error)[:200]}.") from None
    for section in sections:
        values = values.get(section) if isinstance(values, dict) else None
    if not isinstance(values, dict):
        raise CheckpointError(f"{file.path} has no section {'.'.join(sections)} that describes a model.")
    named = {name: value.get("_target_") if isinstance(value, dict) else value for name, value in values.items()}
    return {str(name): value for name, value in named.items() if value is None or isinstance(value, str | bool | int | float)}


def agreed(values: Mapping[str, Any] | None, said: Said | None, rows: int, directory: Path) -> DecoderConfig:
    """The config of `config.json`, of the arguments, or of both when they say the same of what both can say."""
    theirs = read_arguments(*said, rows) if said else None
    if values is None:
        if theirs is None:
            raise CheckpointError(
                f"{directory} says nothing of its model's shape: neither arguments in common.pt, nor a config.json; put one beside it."
            )
        return theirs
    ours = family_of(dict(values)).read_config(values)
    if theirs is not None and said is not None:
        left, right = (write_arguments(config, torch.float32) for config in (ours, theirs))
        for name in left:
            if left[name] != right.get(name) and name not in LIMITS:
                both = f"{left[name]} in one, {right.get(name)} in the other"
                raise CheckpointError(f"{directory / 'config.json'} and {said[1]} contradict each other: {name} is {both}.")
    return ours


def _by_canonical_name(names: Iterable[str]) -> dict[str, str]:
    """Names in the checkpoint by the ones used here, without the prefix of a wrapping module."""
    found: dict[str, str] = {}
    for name in names:
        inner = re.sub(r"^(?:model\.|module\.)+", "", name)
        canonical = inner if inner.startswith(ROOTS) else name
        if (other := found.setdefault(canonical, name)) != name:
            raise CheckpointError(f"A checkpoint holds one tensor under two names: {other[:80]} and {name[:80]}.")
    return found
