"""Read a GGUF file back under our own names, so that what was written can be proven."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from amaru.errors import CheckpointError
from amaru.models.decoder import DecoderConfig
from amaru.models.formats.gguf.header import BF16, F16, F32, Q8_0, read_header
from amaru.models.formats.gguf.metadata import read_metadata
from amaru.models.formats.gguf.tensors import BLOCK, from_stored, stored_name, stored_shape

DTYPES = {F32: torch.float32, F16: torch.float16, BF16: torch.bfloat16, Q8_0: torch.float32}


class GGUF:
    """`GGUF("student.gguf").read("layers.0.mixer.A_log")`: a source of tensors under our names and in our shapes.

    Opening checks that the tensors are exactly those of the metadata, by name, shape and length, before any is read. Quantised
    tensors are read as fp32. Raises `CheckpointError` for a file that is cut short, or of another architecture.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        values, self._entries = read_header(self.path)
        try:
            self.config: DecoderConfig = read_metadata(values, tied="output.weight" not in self._entries)
        except CheckpointError as error:
            raise CheckpointError(f"{self.path}: {error}") from None
        self._check()

    @property
    def names(self) -> list[str]:
        return list(self.config.tensors())

    def dtype(self, name: str) -> torch.dtype:
        return DTYPES[self._entries[stored_name(name)].kind]

    def read(self, name: str) -> Tensor:
        """One tensor in its stored dtype; A_log is log(-a), within two roundings of what was written."""
        return self.rows(name, 0, self._shape(name)[0])

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Some of a tensor's first dimension; only these are read."""
        entry, shape = self._entries[stored_name(name)], self._shape(name)
        width = entry.length // shape[0]
        data = np.fromfile(self.path, np.uint8, (stop - start) * width, offset=entry.start + start * width)
        tensor = _dequantised(data) if entry.kind == Q8_0 else torch.from_numpy(data).view(DTYPES[entry.kind])
        return from_stored(name, tensor).reshape(stop - start, *shape[1:])

    def rounding(self, name: str, tensor: Tensor) -> Tensor | float:
        """By how much the rows `tensor` may have changed on their way into the file: A_log by exp and log, q8_0 by half a step.

        A step is 1/127 of the largest number of a block, and is itself rounded to fp16.
        """
        if self._entries[stored_name(name)].kind == Q8_0:
            largest = tensor.abs().reshape(-1, BLOCK).amax(-1, keepdim=True)
            return (largest * (1 / 254 + 2**-11)).expand(-1, BLOCK).reshape(tensor.shape)
        return 2**-23 * tensor.abs().clamp(min=1) if name.endswith("A_log") else 0.0

    def _shape(self, name: str) -> tuple[int, ...]:
        spec, axes = self.config.tensors()[name]
        return spec.layout.shape(axes)

    def _check(self) -> None:
        expected = {stored_name(name): stored_shape(name, self.config) for name in self.names}
        missing, extra = sorted(expected.keys() - self._entries), sorted(self._entries.keys() - expected)
        for what, names in (("lacks", missing), ("has, beside those of its metadata,", extra)):
            if names:
                raise CheckpointError(f"{self.path} {what} {len(names)} tensors: {', '.join(names)}.")
        for name, shape in expected.items():
            if self._entries[name].shape != shape:
                found = list(self._entries[name].shape)
                raise CheckpointError(f"{self.path}: tensor {name} has shape {found}, but its metadata asks for {list(shape)}.")


def _dequantised(data: np.ndarray) -> Tensor:
    """q8_0: blocks of one fp16 scale and so many int8."""
    blocks = data.view(np.dtype([("scale", "<f2"), ("numbers", "i1", BLOCK)]))
    return torch.from_numpy(blocks["scale"].astype(np.float32)[:, None] * blocks["numbers"].astype(np.float32))
