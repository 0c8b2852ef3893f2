"""Where torch's distributed checkpoints put their bytes here: one safetensors file from each process, streamed, and no pickle.

    step-00000120/   00000.safetensors  00001.safetensors ...   state.safetensors

An entry `NAME@4,0` is a box of tensor NAME that begins there, so the headers of the files are all the metadata. DCP's own files
are pickles; its Hugging Face writer holds a process's state once more as bytes, and one box of each tensor.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, Metadata, MetadataIndex, TensorProperties, TensorStorageMetadata
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, SavePlan, SavePlanner, WriteItem
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future

from amaru.config import fingerprint_file
from amaru.config.atomic import storage_errors, sync
from amaru.models.tensor_file import NAMES, TORCH_DTYPES, Entry, TensorFile, write_tensors


class Writer(StorageWriter):
    """`Writer(path, seal)`: the directory appears when every process has written its file and `seal(directory, hashes)` its own."""

    def __init__(self, path: Path, seal: Callable[[Path, dict[str, str]], None]) -> None:
        self.path, self.seal = path, seal
        self.partial = path.with_name(f".{path.name}.partial")
        self.file = ""

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        self.file = f"{kwargs['rank']:05d}.safetensors"

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Once, before any process writes."""
        with storage_errors(self.path):
            shutil.rmtree(self.partial, ignore_errors=True)
            self.partial.mkdir(parents=True)
        return plans

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        entries = [_entry(item) for item in plan.items]
        with storage_errors(self.path):
            write_tensors(self.partial / self.file, entries, (planner.resolve_data(item) for item in plan.items))  # type: ignore[misc]
            sync(self.partial / self.file)
        seen = {"file": self.file, "hash": fingerprint_file(self.partial / self.file)}
        done: Future[list[WriteResult]] = Future()
        done.set_result([WriteResult(item.index, entry.nbytes, seen) for item, entry in zip(plan.items, entries, strict=True)])
        return done

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Once, when all have written."""
        with storage_errors(self.path):
            self.seal(self.partial, {each.storage_data["file"]: each.storage_data["hash"] for written in results for each in written})
            sync(self.partial)
            shutil.rmtree(self.path, ignore_errors=True)
            os.rename(self.partial, self.path)
            sync(self.path.parent)

    def reset(self, checkpoint_id: str | os.PathLike | None = None) -> None: ...

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike) -> bool:
        return True


class Reader(StorageReader):
    """`Reader(path, files)`: of each file of a finished directory only what is asked for is read."""

    def __init__(self, path: Path, files: list[str]) -> None:
        self.files = [TensorFile(path / file) for file in files]

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        tensors: dict[str, TensorStorageMetadata] = {}
        self.places: dict[MetadataIndex, TensorFile] = {}
        for file in self.files:
            for entry in file.entries.values():
                name, offset = _parted(entry.name)
                box = ChunkStorageMetadata(offset, torch.Size(entry.shape))
                known = tensors.setdefault(name, TensorStorageMetadata(TensorProperties(TORCH_DTYPES[entry.dtype]), box.sizes, []))
                ends = map(sum, zip(box.offsets, box.sizes, strict=True))
                known.size = torch.Size(max(*each) for each in zip(known.size, ends, strict=True))
                known.chunks.append(box)
                self.places[MetadataIndex(name, offset)] = file
        return Metadata(tensors)  # type: ignore[arg-type]

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        for item in plan.items:
            offset = item.storage_index.offset
            assert offset is not None, "what was written has a place"
            name = _named(item.storage_index.fqn, offset)
            (first, count), *inner = zip(item.storage_offsets, item.lengths, strict=True)
            rows = self.places[item.storage_index].rows(name, first, first + count)
            planner.resolve_tensor(item).copy_(rows[(slice(None), *(slice(start, start + length) for start, length in inner))])
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None: ...

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        return plans

    def reset(self, checkpoint_id: str | os.PathLike | None = None) -> None: ...

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike) -> bool:
        return True


def _entry(item: WriteItem) -> Entry:
    assert item.tensor_data is not None and item.index.offset is not None, "only boxes of tensors are written"
    return Entry(_named(item.index.fqn, item.index.offset), NAMES[item.tensor_data.properties.dtype], tuple(item.tensor_data.chunk.sizes))


def _named(name: str, offset: tuple[int, ...]) -> str:
    return f"{name}@{','.join(map(str, offset))}"


def _parted(entry: str) -> tuple[str, torch.Size]:
    name, _, offset = entry.rpartition("@")
    return name, torch.Size(int(number) for number in offset.split(","))
