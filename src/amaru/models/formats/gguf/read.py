"""Read a GGUF file back under our own names, so that what was written can be proven."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from amaru.errors import CheckpointError
from amaru.models.decoder import DecoderConfig
from amaru.models.formats.gguf.header import BF16, F16, F32, Q8_0, read_header
from amaru.models.formats.gguf.metadata import read_metadata
from amaru.models.formats.gguf.tensors import from_stored, stored_name, stored_shape

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
        entry = self._entries[stored_name(name)]
        data = np.fromfile(self.path, np.uint8, entry.length, offset=entry.start)
        tensor = _dequantised(data) if entry.kind == Q8_0 else torch.from_numpy(data).view(DTYPES[entry.kind])
        spec, axes = self.config.tensors()[name]
        return from_stored(name, tensor).reshape(spec.layout.shape(axes))

    def rounding(self, name: str, tensor: Tensor) -> float:
        """By how much `tensor` may have changed on its way: q8_0 keeps 1/254 of a block's largest, A_log passes exp and log."""
        largest = float(tensor.abs().max()) if tensor.numel() else 0.0
        if self._entries[stored_name(name)].kind == Q8_0:
            return largest * (1 / 254 + 2**-11)  # and its scale is fp16
        return 2**-22 * (1 + largest) if name.endswith("A_log") else 0.0

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
    """q8_0: blocks of one fp16 scale and 32 int8."""
    blocks = data.view(np.dtype([("scale", "<f2"), ("numbers", "i1", 32)]))
    return torch.from_numpy(blocks["scale"].astype(np.float32)[:, None] * blocks["numbers"].astype(np.float32))
