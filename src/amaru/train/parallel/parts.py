"""What a process holds of a tensor, in the words of torch's distributed checkpoints: boxes of the whole."""

from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, Metadata, MetadataIndex, TensorProperties, TensorStorageMetadata
from torch.distributed.checkpoint.planner import LoadPlan, TensorWriteData, WriteItem, WriteItemType
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list

from amaru.errors import ArtifactError
from amaru.parallel.shares import Kept, runs

Offset = tuple[int, ...]


class Part:
    """`Part((8, 14), (array([0, 1, 4, 5]), None), tensor)`: rows 0 to 1 and 4 to 5 of a whole [8, 14], which is two boxes.

    DCP asks it by the methods with underscores, its protocol for tensors of other kinds than its own: a concatenated projection
    divided part by part is several boxes in each process, which no DTensor is.
    """

    def __init__(self, whole: tuple[int, ...], kept: Kept, tensor: Tensor) -> None:
        self.whole, self.kept = torch.Size(whole), kept
        self.boxes: dict[Offset, Tensor] = dict(self._boxes(tensor))

    def copied(self) -> "Part":
        """The same in memory of its own, out of reach of the next step."""
        other = Part.__new__(Part)
        other.whole, other.kept = self.whole, self.kept
        other.boxes = {offset: box.to("cpu", copy=True) for offset, box in self.boxes.items()}
        return other

    def _boxes(self, tensor: Tensor) -> Iterator[tuple[Offset, Tensor]]:
        inner = tuple(0 if chosen is None else int(chosen[0]) for chosen in self.kept[1:])
        assert all(chosen is None or (np.diff(chosen) == 1).all() for chosen in self.kept[1:]), "only rows are held in several runs"
        place = 0
        for start, stop in runs(np.arange(self.whole[0]) if self.kept[0] is None else self.kept[0]):
            yield (start, *inner), tensor[place : place + stop - start]
            place += stop - start

    def _chunks(self) -> Iterator[ChunkStorageMetadata]:
        for offset, box in self.boxes.items():
            yield ChunkStorageMetadata(torch.Size(offset), box.shape)

    def __create_write_items__(self, name: str, _: object) -> list[WriteItem]:
        def item(chunk: ChunkStorageMetadata, box: Tensor) -> WriteItem:
            data = TensorWriteData(chunk=chunk, properties=TensorProperties.create_from_tensor(box), size=self.whole)
            return WriteItem(index=MetadataIndex(name, chunk.offsets), type=WriteItemType.SHARD, tensor_data=data)

        return [item(chunk, box) for chunk, box in zip(self._chunks(), self.boxes.values(), strict=True)]

    def __create_chunk_list__(self) -> list[ChunkStorageMetadata]:
        return list(self._chunks())

    def box(self, index: MetadataIndex) -> Tensor:
        assert index.offset is not None, "a box is asked for by its offset"
        return self.boxes[tuple(index.offset)]


class Saving(DefaultSavePlanner):
    """DCP's plan of what is written, looking boxes up in parts."""

    def lookup_object(self, index: MetadataIndex) -> Tensor:
        return self.state_dict[index.fqn].box(index)


class Loading(DefaultLoadPlanner):
    """The same for what is read; torch's own plan knows no other tensors than its own."""

    def set_up_planner(self, state_dict: dict[str, Any], metadata: Metadata | None = None, is_coordinator: bool = False) -> None:
        assert metadata is not None, "a plan is made of what there is"
        self.state_dict, self.metadata, self.is_coordinator = state_dict, metadata, is_coordinator

    def create_local_plan(self) -> LoadPlan:
        assert self.metadata is not None
        saved = cast(dict[str, TensorStorageMetadata], self.metadata.state_dict_metadata)
        if missing := self.state_dict.keys() - saved.keys():
            raise ArtifactError(f"The checkpoint lacks {len(missing)} of {len(self.state_dict)} tensors, {min(missing)} among them.")
        chunks = {name: part.__create_chunk_list__() for name, part in self.state_dict.items()}
        return LoadPlan([item for name in chunks for item in create_read_items_for_chunk_list(name, saved[name], chunks[name])])

    def lookup_tensor(self, index: MetadataIndex) -> Tensor:
        return self.state_dict[index.fqn].box(index)
