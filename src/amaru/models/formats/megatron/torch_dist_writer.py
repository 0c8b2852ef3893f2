"""Megatron's `torch_dist` checkpoints written without Megatron and without ranks: chunk after chunk, as they come."""

import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemWriter, _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.storage import WriteResult

FILE_BYTES = 4 * 2**30
BACKENDS = {"sharded_backend": "torch_dist", "sharded_backend_version": 1, "common_backend": "torch", "common_backend_version": 1}


class Piece(NamedTuple):
    """A chunk of a tensor: `Piece("embedding.word_embeddings.weight", (256000, 6144), (128000, 0), tensor)`."""

    name: str
    shape: tuple[int, ...]
    offset: tuple[int, ...]
    tensor: Tensor


def write_torch_dist(directory: Path, pieces: Iterable[Piece], empty: Iterable[str], common: dict[str, Any]) -> None:
    """Write a checkpoint into an empty directory; one piece is held at a time.

    `empty` are the names of objects that hold None (the extra states of Transformer Engine's modules where nothing is in FP8);
    `common` is what belongs to no tensor, plain values and `argparse.Namespace`. The metadata are written by torch itself.
    """
    metadata = Metadata({})
    results: list[WriteResult] = []
    with _Files(directory) as files:
        for name in empty:
            metadata.state_dict_metadata[name] = BytesStorageMetadata()
            results.append(files.add(MetadataIndex(name), [None]))
        for piece in pieces:
            tensor = piece.tensor.contiguous()
            metadata.state_dict_metadata.setdefault(piece.name, _described(piece)).chunks.append(  # type: ignore[union-attr]
                ChunkStorageMetadata(torch.Size(piece.offset), tensor.shape)
            )
            results.append(files.add(MetadataIndex(piece.name, piece.offset), tensor))
    _Metadata(directory, sync_files=False).finish(metadata, [results])
    torch.save(common, directory / "common.pt")
    (directory / "metadata.json").write_text(json.dumps(BACKENDS), encoding="utf-8")


class _Files:
    """Files `__0_0.distcp`, `__1_0.distcp`, ... of about 4 GiB, one open at a time."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.count = 0
        self.file: BinaryIO | None = None

    def __enter__(self) -> "_Files":
        return self

    def __exit__(self, *_: object) -> None:
        if self.file:
            self.file.close()

    def add(self, index: MetadataIndex, value: Any) -> WriteResult:
        file = self._open()
        start = file.tell()
        if isinstance(value, Tensor):
            torch.save(value if value.untyped_storage().nbytes() == value.nbytes else value.clone(), file)
        else:
            buffer = io.BytesIO()
            torch.save(value, buffer)
            file.write(buffer.getbuffer())
        length = file.tell() - start
        return WriteResult(index=index, size_in_bytes=length, storage_data=_StorageInfo(Path(file.name).name, start, length))

    def _open(self) -> BinaryIO:
        if self.file and self.file.tell() >= FILE_BYTES:
            self.file.close()
            self.file = None
        if self.file is None:
            self.file = open(self.directory / f"__{self.count}_0.distcp", "wb")  # noqa: SIM115  (closed by __exit__)
            self.count += 1
        return self.file


class _Metadata(FileSystemWriter):
    """Writes `.metadata`, without the random numbers and the path of this machine that torch would put into it."""

    def storage_meta(self) -> StorageMeta | None:
        return None


def _described(piece: Piece) -> TensorStorageMetadata:
    return TensorStorageMetadata(TensorProperties.create_from_tensor(piece.tensor), torch.Size(piece.shape), [])
