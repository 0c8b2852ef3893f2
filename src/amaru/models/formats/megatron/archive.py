"""What `torch.save` wrote, in a range of a file's bytes: the objects at once, a tensor's bytes only when they are asked for."""

import io
import math
import zipfile
from functools import cached_property
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor

from amaru.errors import CheckpointError
from amaru.models.formats.megatron.folder import Range
from amaru.models.formats.restricted_unpickler import StoredTensor, unpickle

LARGEST_PICKLE = 2**26  # bytes; where tensors lie, and settings
LOCAL_HEADER = 30  # bytes of a zip member before its name; the two lengths at its end say how much follows


class TorchArchive:
    """`TorchArchive(file).contents["weight"]` is a `StoredTensor`, `.read(it)` its values; nothing is mapped, nothing is run.

    Raises `CheckpointError` naming the file for one that is
    cut short, is no archive, is compressed, or holds other classes than tensors and settings.
    """

    def __init__(self, file: Range) -> None:
        self.path, self.start, self.length = file
        try:
            with open(self.path, "rb") as stream, zipfile.ZipFile(cast(BinaryIO, _Window(stream, file))) as archive:
                self._members = {member.filename.partition("/")[2]: member for member in archive.infolist()}
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise self._damaged(f"{str(error).rstrip('.')}; it holds nothing that torch.save wrote") from None
        if self._raw("byteorder", LARGEST_PICKLE, missing=b"little") != b"little":
            raise CheckpointError(f"{self.path} was written on a big-endian machine, which amaru does not read.")

    @cached_property
    def contents(self) -> Any:
        return unpickle(self._raw("data.pkl", LARGEST_PICKLE), str(self.path))

    def read(self, tensor: StoredTensor, first: int = 0, stop: int | None = None) -> Tensor:
        """Some of a tensor's first dimension, or all of it."""
        shape = tensor.shape if stop is None else (stop - first, *tensor.shape[1:])
        if 0 in shape:
            return torch.empty(shape, dtype=tensor.dtype)
        where = self._storage(tensor)
        if tensor.stride != _contiguous(tensor.shape):
            held = self._filled((tensor.elements,), tensor.dtype, where)
            return held.as_strided(tensor.shape, tensor.stride, tensor.offset)[first:stop].contiguous()
        skipped = tensor.offset + first * math.prod(tensor.shape[1:])
        return self._filled(shape, tensor.dtype, where + skipped * tensor.dtype.itemsize)

    def _storage(self, tensor: StoredTensor) -> int:
        """Where in the file the bytes begin of which the tensor is a view, once it is known that they are enough."""
        begin, size = self._place(f"data/{tensor.key}")
        last = tensor.offset + sum((count - 1) * step for count, step in zip(tensor.shape, tensor.stride, strict=True))
        if last >= tensor.elements or tensor.elements * tensor.dtype.itemsize > size:
            raise self._damaged(f"a tensor of shape {list(tensor.shape)} does not lie within the {size} bytes kept for it")
        return begin

    def _filled(self, shape: tuple[int, ...], dtype: torch.dtype, begin: int) -> Tensor:
        tensor = torch.empty(shape, dtype=dtype)
        with open(self.path, "rb") as file:
            file.seek(begin)
            if file.readinto(tensor.reshape(-1).view(torch.uint8).numpy().data) != tensor.nbytes:
                raise self._damaged("it ends inside a tensor")
        return tensor

    def _raw(self, name: str, most: int, missing: bytes | None = None) -> bytes:
        if missing is not None and name not in self._members:
            return missing
        begin, size = self._place(name)
        if size > most:
            raise self._damaged(f"its {name} has {size:,} bytes, of which at most {most:,} are read")
        with open(self.path, "rb") as file:
            file.seek(begin)
            return file.read(size)

    def _place(self, name: str) -> tuple[int, int]:
        """Where a member's bytes begin in the file, and how many they are."""
        member = self._members.get(name)
        if member is None or member.compress_type != zipfile.ZIP_STORED:
            raise self._damaged(f"it has no uncompressed member {name!r}")
        with open(self.path, "rb") as file:
            file.seek(self.start + member.header_offset)
            header = file.read(LOCAL_HEADER)
        names = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        begin = member.header_offset + LOCAL_HEADER + names
        if not header.startswith(b"PK\x03\x04") or begin + member.file_size > self.length:
            raise self._damaged(f"the bytes of {name!r} lie past its end")
        return self.start + begin, member.file_size

    def _damaged(self, why: str) -> CheckpointError:
        return CheckpointError(f"{self.path} is cut short or damaged: {why}.")


class _Window(io.RawIOBase):
    """A range of an open file, seen as a file."""

    def __init__(self, file: BinaryIO, seen: Range) -> None:
        self.file, self.start, self.length, self.place = file, seen.start, seen.length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.place = max(0, offset + (0, self.place, self.length)[whence])
        return self.place

    def tell(self) -> int:
        return self.place

    def read(self, size: int = -1) -> bytes:
        left = max(0, self.length - self.place)
        self.file.seek(self.start + self.place)
        data = self.file.read(left if size < 0 else min(size, left))
        self.place += len(data)
        return data


def _contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(shape[dimension + 1 :]) for dimension in range(len(shape)))
